"""A process that grows is told from one that only breathes."""

import math
import random

import pytest
from tests.faults.harness import growth


def life(minutes: float, mib: float = 0.0, lost: float = 0.0, *, noise: float = 4.0) -> list[growth.Sample]:
    """A sample every two seconds; mib, lost: memory and descriptors that are gone for good, a minute."""
    rng = random.Random(4)
    return [
        growth.Sample(
            100.0 + at, 120.0 + mib * at / 60 + noise * rng.random(), 30 + int(lost * at / 60 + 3 * rng.random())
        )
        for at in range(0, int(60 * minutes), 2)
    ]


def judged(samples: list[growth.Sample]) -> growth.Growth:
    found = growth.growth("ledger", samples, warm_up_s=60.0, least_s=300.0)
    assert found is not None
    return found


@pytest.mark.parametrize(("mib", "lost"), [(0.0, 0.0), (0.8, 0.0), (-5.0, 0.0), (0.0, 0.1)])
def test_a_life_that_breathes_is_steady(mib: float, lost: float) -> None:
    assert judged(life(15.0, mib, lost)).steady


@pytest.mark.parametrize(("mib", "lost"), [(1.2, 0.0), (40.0, 0.0), (0.0, 0.7), (1.2, 0.7)])
def test_a_life_that_grows_is_not(mib: float, lost: float) -> None:
    assert not judged(life(15.0, mib, lost)).steady


def test_the_slope_is_in_mebibytes_a_minute_and_the_time_is_that_after_the_warm_up() -> None:
    found = judged(life(11.0, 2.5, noise=0.0))
    assert math.isclose(found.mib_per_min, 2.5)
    assert 9.9 < found.minutes < 10.0


def test_a_few_peaks_and_a_beginning_that_fills_caches_are_no_growth() -> None:
    samples = life(15.0)
    peaks = random.Random(5).sample(range(len(samples)), len(samples) // 5)
    for at in peaks:
        samples[at] = growth.Sample(samples[at].at, 900.0, 30)
    filling = [growth.Sample(one.at, one.rss_mib - 80.0, 9) for one in samples[:29]]
    assert judged([*filling, *samples[29:]]).steady


def test_a_step_that_stays_is_growth_when_it_comes_again_and_again() -> None:
    samples = life(15.0, noise=0.0)
    steps = [growth.Sample(one.at, one.rss_mib + 6.0 * ((one.at - 100.0) // 150), 30) for one in samples]
    assert not judged(steps).steady


def test_a_short_life_says_nothing() -> None:
    assert growth.growth("ledger", life(5.5), warm_up_s=60.0, least_s=300.0) is None
    assert growth.growth("ledger", life(0.1), warm_up_s=60.0, least_s=300.0) is None
