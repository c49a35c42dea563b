"""What `trimtab eval` makes of answers and scores: means with their intervals. Pure."""

import dataclasses
import math
from collections.abc import Sequence

from trimtab.core import statistics


@dataclasses.dataclass(frozen=True, slots=True)
class Mean:
    """Of `count` values, with its 95 % interval: none of fewer than two; no mean of none."""

    mean: float | None
    low: float | None
    high: float | None
    count: int

    def in_words(self, digits: int = 3) -> str:
        """E.g. "0.412 [0.310, 0.514]"."""
        if self.mean is None:
            return "-"
        said = f"{self.mean:.{digits}f}"
        return said if self.low is None else f"{said} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def mean(values: Sequence[float]) -> Mean:
    """The mean of independent values, with its normal interval."""
    if len(values) < 2:
        return Mean(values[0] if values else None, None, None, len(values))
    return Mean(*statistics.mean_interval(list(values)), len(values))


def share(right: float, count: int) -> Mean:
    """`right` of `count`, a tie counting half, with Wilson's interval."""
    if not count:
        return Mean(None, None, None, 0)
    return Mean(right / count, *statistics.wilson_interval(right, count), count)


@dataclasses.dataclass(frozen=True, slots=True)
class Answered:
    """What became of one prompt. finish: "ended", "truncated" or "refused" (`why`: the platform's sentence).

    score: by the reward model; None where there is none (`why`, unless nothing was to be scored).
    """

    line: int
    finish: str
    text: str = ""
    tokens: int = 0
    score: float | None = None
    why: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """A policy on a prompt set. unscored: answers that a reward model was asked about and gave no number."""

    policy: str
    prompts: int
    ended: int
    truncated: int
    refused: int
    unscored: int
    reward: Mean
    tokens: Mean


def summary(policy: str, answers: Sequence[Answered], scored: bool) -> Summary:
    """scored: whether a reward model was asked."""
    made = [answer for answer in answers if answer.finish != "refused"]
    values = [answer.score for answer in made if answer.score is not None]
    return Summary(
        policy=policy,
        prompts=len(answers),
        ended=sum(answer.finish == "ended" for answer in made),
        truncated=sum(answer.finish == "truncated" for answer in made),
        refused=len(answers) - len(made),
        unscored=len(made) - len(values) if scored else 0,
        reward=mean(values),
        tokens=mean([float(answer.tokens) for answer in made]),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """The first policy minus the second, on the prompts that both answered (and that have both a score)."""

    reward: Mean
    tokens: Mean


def difference(first: Sequence[Answered], second: Sequence[Answered]) -> Difference:
    """Paired by prompt: both answered the same prompts, in the same order."""
    both = [
        (one, other) for one, other in zip(first, second, strict=True) if "refused" not in (one.finish, other.finish)
    ]
    rewards = [one.score - other.score for one, other in both if one.score is not None and other.score is not None]
    return Difference(mean(rewards), mean([float(one.tokens - other.tokens) for one, other in both]))


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """What a reward model says to one preference: rewards of both answers, None where one has no score (`why`)."""

    line: int
    chosen: float | None
    rejected: float | None
    why: str = ""

    @property
    def gap(self) -> float | None:
        return None if self.chosen is None or self.rejected is None else self.chosen - self.rejected


@dataclasses.dataclass(frozen=True, slots=True)
class Predictor:
    """How well preferences are predicted: share right (ties half), and nats per preference."""

    accuracy: Mean
    nll: Mean


def predictor(judged: Sequence[Judged]) -> Predictor:
    """P(chosen over rejected) = sigma(gap): Bradley and Terry 1952. Of those that have a score."""
    gaps = [one.gap for one in judged if one.gap is not None]
    right = math.fsum(0.5 * (1 + (gap > 0) - (gap < 0)) for gap in gaps)
    return Predictor(share(right, len(gaps)), mean([nll_of(gap) for gap in gaps]))


def nll_of(gap: float) -> float:
    """-log sigma(gap), nats."""
    return max(-gap, 0.0) + math.log1p(math.exp(-abs(gap)))
