"""How far a policy went for its reward, and where going further stops to pay. Pure functions, standard library only.

Gao, Schulman and Hilton 2022 (arXiv:2210.10760) measure the distance of a policy from its reference as
d = sqrt(KL(policy || reference)), the KL in nats an answer. What optimising a reward gains along it they describe by

    best of n                 R(d) = d (alpha - beta d)         greatest at d = alpha / (2 beta)
    reinforcement learning    R(d) = d (alpha - beta log d)     greatest at d = e^(alpha / beta - 1)
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

from trimtab.trainer.judging.symptoms import evidence


def best_of_n_kl(n: float) -> float:
    """KL(best of n answers || one) = ln n - (n - 1) / n, in nats an answer (Gao et al.).

    Exact where no two answers score the same, else a bound (Beirami et al. 2024, arXiv:2401.01879).
    """
    return math.log(n) - (n - 1.0) / n


def n_of_kl(kl_nats: float) -> float:
    """How many answers to choose the best of, to be that far from the reference: the inverse of `best_of_n_kl`."""
    low, high = 1.0, math.exp(kl_nats + 1.0)
    while high - low > 1e-9 * high:
        middle = (low + high) / 2.0
        low, high = (middle, high) if best_of_n_kl(middle) < kl_nats else (low, middle)
    return high


@dataclasses.dataclass(frozen=True, slots=True)
class Curve:
    """One of the two forms above. bending: d or log d, what beta is multiplied by."""

    bending: Callable[[float], float]
    peak_of: Callable[[float, float], float]

    def gain(self, d: float, alpha: float, beta: float) -> float:
        return d * (alpha - beta * self.bending(d)) if d > 0 else 0.0


BEST_OF_N = Curve(bending=lambda d: d, peak_of=lambda alpha, beta: alpha / (2.0 * beta))
LEARNED = Curve(bending=math.log, peak_of=lambda alpha, beta: math.exp(alpha / beta - 1.0))
# A curve of three coefficients through fewer points is made of their noise.
_POINTS = 10
# A peak that the choice of the form moves further than by this factor is one of the form, not of what was measured.
_AGREE = 1.5


def peak(distances: Sequence[float], rewards: Sequence[float]) -> float | None:
    """Distance at which the rewards are greatest; None where they do not tell.

    Both curves, each with a constant (the reference's reward), are fitted by least squares. They tell where beta is
    above 0 by `evidence.SIGMAS` standard errors in both and the two put their peaks at about the same place.
    """
    peaks = [_fitted_peak(curve, distances, rewards) for curve in (LEARNED, BEST_OF_N)]
    known = [found for found in peaks if found is not None]
    if len(known) < len(peaks) or max(known) > _AGREE * min(known):
        return None
    return known[0]


def _fitted_peak(curve: Curve, distances: Sequence[float], rewards: Sequence[float]) -> float | None:
    """y = constant + alpha u - beta v, u = d and v = d bending(d), from the centred sums of squares and products."""
    count = len(distances)
    if count < _POINTS:
        return None
    u, y = _centred(distances), _centred(rewards)
    v = _centred([curve.gain(d, 0.0, -1.0) for d in distances])
    uu, uv, vv = _dot(u, u), _dot(u, v), _dot(v, v)
    determinant = uu * vv - uv * uv
    if determinant <= 1e-12 * uu * vv:
        return None
    alpha = (_dot(u, y) * vv - _dot(v, y) * uv) / determinant
    beta = -(_dot(v, y) * uu - _dot(u, y) * uv) / determinant
    residuals = [c - alpha * a + beta * b for a, b, c in zip(u, v, y, strict=True)]
    error = math.sqrt(_dot(residuals, residuals) / (count - 3) * uu / determinant)
    if alpha <= 0 or beta <= evidence.SIGMAS * error:
        return None
    # e^700 is the largest that a float holds
    return curve.peak_of(alpha, beta) if alpha < 700.0 * beta else None


def _centred(values: Sequence[float]) -> list[float]:
    mean = math.fsum(values) / len(values)
    return [value - mean for value in values]


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def said(of: evidence.Evidence) -> str:
    """How far the run's policy went, in sentences; empty where no KL was told."""
    kl_nats = of.last("kl_nats")
    # e^700 again
    if kl_nats is None or not 0.0 < kl_nats < 600.0:
        return ""
    told = f" Its KL of {kl_nats:.2f} nats an answer is that of choosing the best of {_rounded(n_of_kl(kl_nats))}."
    rows = next((rows for rows in of.phases.values() if evidence.finite(rows, "score")), ())
    points = [(row["kl_nats"], row["score"]) for row in rows if row.keys() >= {"kl_nats", "score"}]
    finite = [(kl, score) for kl, score in points if math.isfinite(kl) and math.isfinite(score)]
    found = peak([math.sqrt(max(0.0, kl)) for kl, _ in finite], [score for _, score in finite])
    if found is None:
        return told
    where = "which it has passed" if kl_nats > found**2 else f"{kl_nats / found**2:.0%} of which it has come"
    return f"{told} The training reward itself, along Gao et al.'s curve, is greatest at {found**2:.2f} nats, {where}."


def _rounded(n: float) -> str:
    """Two digits of it."""
    return f"{float(f'{n:.2g}'):,.0f}" if n < 1e9 else f"{n:.1e}"
