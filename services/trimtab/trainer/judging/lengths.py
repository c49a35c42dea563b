"""How much of a candidate's gain is length. Pure; used by `trainer.judging.evaluation`.

A judge that likes long answers is easily pleased, and a policy finds out. Over the prompts p that two policies
answered, with r the evaluation reward and n the tokens of an answer, least squares fits

    r(candidate) - r(reference) = gain + slope (log n(candidate) - log n(reference)) + e_p.

Differences of two answers to one prompt leave out what the prompt itself does to reward and length. `slope` is reward
per factor e of length, `gain` what the candidate is better by at equal length: the idea of length-controlled win rates
(Dubois et al. 2024, arXiv:2404.04475) on the reward's own scale. Intervals are 95 %, from the heteroskedasticity-robust
variance (White 1980, with n / (n - 2)).
"""

import dataclasses
import math
from collections.abc import Sequence

_Z95 = 1.959963984540054


@dataclasses.dataclass(frozen=True, slots=True)
class LengthEffect:
    """Each with its 95 % interval, in units of reward (slope: per factor e of length)."""

    slope: float
    slope_low: float
    slope_high: float
    gain: float
    gain_low: float
    gain_high: float


def effect(gains: Sequence[float], log_ratios: Sequence[float]) -> LengthEffect | None:
    """gains: r(candidate) - r(reference) by prompt; log_ratios: log n(candidate) - log n(reference).

    None where it cannot be known: fewer than three prompts, or a ratio of lengths that hardly varies.
    """
    count = len(gains)
    if count < 3:
        return None
    mean_x, mean_y = math.fsum(log_ratios) / count, math.fsum(gains) / count
    centred = [x - mean_x for x in log_ratios]
    spread = math.fsum(x * x for x in centred)
    if spread < 1e-9 * count:
        return None
    slope = math.fsum(x * y for x, y in zip(centred, gains, strict=True)) / spread
    gain = mean_y - slope * mean_x
    # influence of each prompt on slope and gain: the sandwich, written as a sum over prompts
    left = [y - gain - slope * x for x, y in zip(log_ratios, gains, strict=True)]
    on_slope = [x * e / spread for x, e in zip(centred, left, strict=True)]
    on_gain = [e / count - mean_x * moved for e, moved in zip(left, on_slope, strict=True)]
    widths = [_Z95 * math.sqrt(math.fsum(v * v for v in one) * count / (count - 2)) for one in (on_slope, on_gain)]
    return LengthEffect(slope, slope - widths[0], slope + widths[0], gain, gain - widths[1], gain + widths[1])
