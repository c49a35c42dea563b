"""What length explains of a gain, against what was planted and against numpy's least squares."""

import math
import random

import numpy
import pytest

from trimtab.trainer.judging import lengths


def planted(count: int, slope: float, gain: float, shift: float, seed: int = 0) -> tuple[list[float], list[float]]:
    rng = random.Random(seed)
    ratios = [rng.gauss(shift, 0.4) for _ in range(count)]
    return [gain + slope * x + rng.gauss(0, 0.5 + abs(x)) for x in ratios], ratios


def test_slope_and_gain_are_those_of_least_squares_with_robust_intervals() -> None:
    gains, ratios = planted(200, 1.5, -0.3, 0.6)
    found = lengths.effect(gains, ratios)
    assert found is not None
    design = numpy.column_stack([numpy.ones(200), ratios])
    inverse = numpy.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ numpy.array(gains)
    left = numpy.array(gains) - design @ beta
    covariance = inverse @ (design.T * left**2) @ design @ inverse * 200 / 198
    widths = 1.959963984540054 * numpy.sqrt(numpy.diag(covariance))
    assert (found.gain, found.slope) == pytest.approx(tuple(beta), abs=1e-12)
    assert found.gain_high - found.gain == pytest.approx(widths[0], abs=1e-12)
    assert found.slope - found.slope_low == pytest.approx(widths[1], abs=1e-12)


def test_intervals_cover_what_was_planted_as_often_as_they_say() -> None:
    inside = 0
    for seed in range(400):
        gains, ratios = planted(100, 0.8, 0.2, 0.3, seed)
        found = lengths.effect(gains, ratios)
        assert found is not None
        inside += found.slope_low <= 0.8 <= found.slope_high
    assert 0.90 <= inside / 400 <= 0.98


@pytest.mark.parametrize("ratios", [[0.5] * 20, [0.0] * 20, [0.1, -0.1], []])
def test_without_varying_lengths_nothing_is_told(ratios: list[float]) -> None:
    assert lengths.effect([math.sin(i) for i in range(len(ratios))], ratios) is None
