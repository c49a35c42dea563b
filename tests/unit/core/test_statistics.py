"""Intervals hold the values of their papers and cover as often as they say."""

import math
import random

import pytest

from trimtab.core import statistics


def test_wilsons_interval_has_its_published_values():
    # Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3: 81/263, 15/148, 0/20, 1/29
    for successes, trials, expected in (
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ):
        assert statistics.wilson_interval(successes, trials) == pytest.approx(expected, abs=5e-5)


def test_nothing_tried_is_nothing_known():
    assert statistics.wilson_interval(0, 0) == (0.0, 1.0)


def test_wilsons_interval_never_leaves_zero_to_one():
    for trials in (1, 2, 5):
        for successes in range(trials + 1):
            lower, upper = statistics.wilson_interval(successes, trials)
            assert 0.0 <= lower <= successes / trials <= upper <= 1.0


def test_the_mean_interval_is_the_textbook_one():
    mean, lower, upper = statistics.mean_interval([1.0, 2.0, 3.0, 4.0])
    half = 1.959963984540054 * math.sqrt(5 / 3 / 4)
    assert (mean, lower, upper) == pytest.approx((2.5, 2.5 - half, 2.5 + half))


def test_one_value_has_no_interval():
    with pytest.raises(ValueError, match="two values"):
        statistics.mean_interval([1.0])


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    draw = random.Random(7)
    covered = 0
    for _ in range(1000):
        votes = sum(draw.random() < 0.7 for _ in range(60))
        lower, upper = statistics.wilson_interval(votes, 60)
        covered += lower <= 0.7 <= upper
    assert 920 <= covered <= 975


def test_clusters_of_one_give_the_plain_interval():
    values = [0.3, -1.2, 2.5, 0.9]
    assert statistics.clustered_interval(values, list("abcd")) == pytest.approx(statistics.mean_interval(values))
    assert statistics.clustered_interval(values, ["a"] * 4) == statistics.mean_interval(values)
    assert statistics.clustered_interval([0.5], ["a"]) == (0.5, -math.inf, math.inf)


def test_people_who_say_the_same_thing_often_do_not_narrow_the_interval():
    covered = narrow = 0
    rng = random.Random(3)
    for _ in range(400):
        people = [rng.gauss(0, 1) for _ in range(30)]
        values = [person + rng.gauss(0, 0.1) for person in people for _ in range(8)]
        names = [str(number) for number in range(30) for _ in range(8)]
        _, low, high = statistics.clustered_interval(values, names)
        covered += low <= 0 <= high
        _, low, high = statistics.mean_interval(values)
        narrow += low <= 0 <= high
    assert covered / 400 > 0.91
    assert narrow / 400 < 0.65
