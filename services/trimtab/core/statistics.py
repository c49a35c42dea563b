"""Intervals for shares and differences; all at 95 % unless said."""

import math

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
