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


def clustered_interval(values: Sequence[float], clusters: Sequence[str], z: float = _Z95) -> tuple[float, float, float]:
    """Mean and its interval (mean, lower, upper) where values of one cluster (a person) are not independent.

    The variance is that of the clusters' sums of deviations, times G / (G - 1) for G clusters (Liang and Zeger 1986,
    Biometrika 73:13). With one cluster the values are taken as independent; with one value nothing is known.
    """
    mean = math.fsum(values) / len(values)
    if len(set(clusters)) < 2:
        return mean_interval(list(values), z) if len(values) > 1 else (mean, -math.inf, math.inf)
    sums: dict[str, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value - mean
    variance = math.fsum(part * part for part in sums.values()) * len(sums) / (len(sums) - 1) / len(values) ** 2
    half = z * math.sqrt(variance)
    return mean, mean - half, mean + half
