"""Best of n, and the peaks of Gao et al.'s curves: the reference cases; a peak only where measurements have one."""

import math
import random

import pytest

from trimtab.trainer.judging.symptoms import distance


@pytest.mark.parametrize(("n", "kl_nats"), [(1, 0.0), (4, 0.6362943611), (16, 1.8350887222), (64, 3.1745080834)])
def test_the_kl_of_the_best_of_n(n: int, kl_nats: float) -> None:
    assert distance.best_of_n_kl(n) == pytest.approx(kl_nats, abs=1e-9)
    assert distance.n_of_kl(kl_nats) == pytest.approx(n, abs=1e-4 if n == 1 else 1e-6)


def test_the_kl_of_the_best_of_n_is_that_of_its_distribution() -> None:
    """The best of n of scores that are uniform on (0, 1) has the density n x^(n - 1): KL = E[ln n + (n - 1) ln x]."""
    n, cells = 4, 200_000
    places = [(i + 0.5) / cells for i in range(cells)]
    kl = math.fsum(n * x ** (n - 1) * (math.log(n) + (n - 1) * math.log(x)) for x in places) / cells
    assert distance.best_of_n_kl(n) == pytest.approx(kl, abs=1e-6)


@pytest.mark.parametrize("kl_nats", [0.01, 9.0, 300.0])
def test_n_of_a_kl_is_its_inverse(kl_nats: float) -> None:
    assert distance.best_of_n_kl(distance.n_of_kl(kl_nats)) == pytest.approx(kl_nats, rel=1e-6)


@pytest.mark.parametrize(
    ("curve", "at", "gain"),
    [(distance.BEST_OF_N, 2.5, 1.25), (distance.LEARNED, math.e**4, 0.2 * math.e**4)],
)
def test_the_peaks_of_both_curves(curve: distance.Curve, at: float, gain: float) -> None:
    """alpha = 1, beta = 0.2; e^4 = 54.598."""
    peak = curve.peak_of(1.0, 0.2)
    assert peak == pytest.approx(at, abs=1e-9) and curve.gain(peak, 1.0, 0.2) == pytest.approx(gain, abs=1e-9)
    assert all(curve.gain(peak * factor, 1.0, 0.2) < gain for factor in (0.9, 0.99, 1.01, 1.1))
    assert curve.gain(0.0, 1.0, 0.2) == 0.0


def rewards(curve: distance.Curve, alpha: float, beta: float, noise: float, seed: int) -> list[tuple[float, float]]:
    """Of a run whose KL rises evenly to 16 nats, from a reference that scores -0.4."""
    rng = random.Random(seed)
    distances = [math.sqrt(16.0 * i / 29) for i in range(30)]
    return [(d, curve.gain(d, alpha, beta) - 0.4 + rng.gauss(0, noise)) for d in distances]


def peak_of(points: list[tuple[float, float]]) -> float | None:
    return distance.peak([d for d, _ in points], [reward for _, reward in points])


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_peak_within_what_was_measured_is_found(noise: float) -> None:
    found = peak_of(rewards(distance.LEARNED, 1.0, 0.5, noise, seed=1))
    assert found == pytest.approx(math.e, rel=1e-9 if not noise else 0.1)


def test_a_peak_far_outside_is_not_told_from_the_form_of_the_curve() -> None:
    assert peak_of(rewards(distance.LEARNED, 1.0, 0.2, 0.001, seed=1)) is None


def test_rewards_without_a_peak_have_none() -> None:
    lines = [rewards(distance.LEARNED, 0.4, 0.0, 0.05, seed) for seed in range(200)]
    assert sum(peak_of(points) is not None for points in lines) <= 2
    assert peak_of(rewards(distance.LEARNED, 1.0, 0.5, 0.0, seed=1)[:9]) is None
    assert peak_of([(0.0, 1.0)] * 30) is None and peak_of([(0.5 * (i % 2), 1.0 * (i % 2)) for i in range(30)]) is None
