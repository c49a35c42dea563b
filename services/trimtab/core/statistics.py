"""Intervals for shares and differences; all at 95 % unless said."""

import math
from collections.abc import Sequence

_Z95 = 1.959963984540054


def wilson_interval(successes: float, trials: int, z: float = _Z95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927, JASA 22:209); (0, 1) when nothing was tried."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def mean_interval(values: list[float], z: float = _Z95) -> tuple[float, float, float]:
    """Mean and its normal interval (mean, lower, upper); needs two values."""
    count = len(values)
    if count < 2:
        raise ValueError("an interval needs at least two values")
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = z * math.sqrt(variance / count)
    return mean, mean - half, mean + half


def clustered_interval(
    values: Sequence[float], clusters: Sequence[str], z: float = _Z95, weights: Sequence[float] | None = None
) -> tuple[float, float, float]:
    """Weighted mean and its interval (mean, lower, upper) where values of one cluster (a person) are not independent.

    The variance is that of the clusters' weighted sums of deviations, times G / (G - 1) for G clusters (Liang and Zeger
    1986, Biometrika 73:13). With one cluster the values are taken as independent; with one value nothing is known.
    weights: above 0, 1 each where none are given.
    """
    weights = [1.0] * len(values) if weights is None else weights
    total = math.fsum(weights)
    mean = math.fsum(weight * value for weight, value in zip(weights, values, strict=True)) / total
    if len(values) < 2:
        return mean, -math.inf, math.inf
    if len(set(clusters)) < 2:
        clusters = [str(number) for number in range(len(values))]
    sums: dict[str, float] = {}
    for value, weight, cluster in zip(values, weights, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + weight * (value - mean)
    variance = math.fsum(part * part for part in sums.values()) * len(sums) / (len(sums) - 1) / total**2
    half = z * math.sqrt(variance)
    return mean, mean - half, mean + half


def effective_number(weights: Sequence[float]) -> float:
    """How many examples of equal weight tell as much as these: (sum w)^2 / sum w^2 (Kish 1965, Survey Sampling)."""
    return math.fsum(weights) ** 2 / math.fsum(weight * weight for weight in weights)
