"""The sequence errs in at most alpha of runs over all looks, and decides when there is a difference."""

import random

import pytest

from trimtab.core import sequential

ALPHA = 0.05
TIGHTEST_AT = 320.0


class Looks:
    """`sequential.difference` after every unit, in one pass; held to the real function in a test below."""

    def __init__(self) -> None:
        self.eta = sequential.mixture_scale(ALPHA, TIGHTEST_AT)
        self.total = self.squares = self.outcomes = 0.0
        self.count = 0

    def add(self, candidate: bool, propensity: float, outcome: float) -> int:
        """+1 when zero lies below the interval, -1 when above, else 0."""
        effect = (outcome - (self.outcomes + 0.5) / (self.count + 1)) / propensity
        self.total += effect if candidate else -effect
        self.squares += effect * effect
        self.outcomes += outcome
        self.count += 1
        half = sequential.radius(self.squares, self.count, ALPHA, self.eta) * self.count
        return (self.total > half) - (self.total < -half)


def first_decision(rng: random.Random, sessions: int, weight: float, outcome) -> tuple[int, int]:
    looks = Looks()
    for position in range(sessions):
        candidate = rng.random() < weight
        sign = looks.add(candidate, weight if candidate else 1 - weight, outcome(rng, candidate, position))
        if sign and position >= 80:
            return sign, position + 1
    return 0, sessions


def constant(rng: random.Random, candidate: bool, position: int) -> float:
    return float(rng.random() < 0.6)


def drifting(rng: random.Random, candidate: bool, position: int) -> float:
    return float(rng.random() < 0.2 + 0.6 * position / 1500)


def five_correlated_votes(rng: random.Random, candidate: bool, position: int) -> float:
    mood = rng.betavariate(0.5, 0.4)
    return sum(rng.random() < mood for _ in range(5)) / 5


@pytest.mark.parametrize("outcome", [constant, drifting, five_correlated_votes])
@pytest.mark.parametrize("weight", [0.5, 0.2])
def test_identical_policies_are_told_apart_in_at_most_alpha_of_runs(outcome, weight) -> None:
    rng = random.Random(f"{outcome.__name__}/{weight}")
    runs = 400
    false = sum(first_decision(rng, 1500, weight, outcome)[0] != 0 for _ in range(runs))
    assert false / runs <= ALPHA, f"{false} of {runs} false decisions"


def test_a_clearly_better_policy_is_proven_within_600_sessions_in_most_runs() -> None:
    rng = random.Random(11)
    decided = [
        first_decision(rng, 600, 0.5, lambda r, candidate, _: float(r.random() < (0.66 if candidate else 0.49)))
        for _ in range(200)
    ]
    assert sum(sign == 1 for sign, _ in decided) >= 150
    assert all(sign >= 0 for sign, _ in decided)


def test_a_clearly_worse_policy_is_found_out_soon() -> None:
    rng = random.Random(12)
    decided = [
        first_decision(rng, 400, 0.5, lambda r, candidate, _: float(r.random() < (0.2 if candidate else 0.6)))
        for _ in range(100)
    ]
    assert sum(sign == -1 for sign, _ in decided) >= 99


def test_the_sequence_covers_the_true_difference_at_every_look_also_with_uneven_arms() -> None:
    rng = random.Random(13)
    missed = 0
    for _ in range(200):
        units, outside = [], False
        for position in range(600):
            candidate = rng.random() < 0.2
            outcome = float(rng.random() < (0.7 if candidate else 0.5))
            units.append(sequential.Unit(candidate, 0.2 if candidate else 0.8, outcome))
            if position >= 80 and position % 40 == 0:
                interval = sequential.difference(units, ALPHA, TIGHTEST_AT)
                outside |= not interval.lower <= 0.2 <= interval.upper
        missed += outside
    assert missed / 200 <= ALPHA


def test_the_running_form_used_in_these_tests_agrees_with_the_function() -> None:
    rng = random.Random(14)
    looks, units = Looks(), []
    for _ in range(300):
        candidate, outcome = rng.random() < 0.5, rng.random()
        sign = looks.add(candidate, 0.5, outcome)
        units.append(sequential.Unit(candidate, 0.5, outcome))
        interval = sequential.difference(units, ALPHA, TIGHTEST_AT)
        assert sign == (interval.lower > 0) - (interval.upper < 0)
        assert interval.mean == pytest.approx(looks.total / looks.count)


def test_nothing_seen_says_nothing() -> None:
    interval = sequential.difference([], ALPHA, TIGHTEST_AT)
    assert (interval.lower, interval.upper, interval.units) == (-1.0, 1.0, 0)


def test_the_scale_makes_the_boundary_tightest_where_it_was_asked_for() -> None:
    best = sequential.radius(320, 320, ALPHA, sequential.mixture_scale(ALPHA, 320))
    for elsewhere in (40, 100, 1000, 5000):
        assert best < sequential.radius(320, 320, ALPHA, sequential.mixture_scale(ALPHA, elsewhere))


def test_an_impossible_propensity_is_refused() -> None:
    with pytest.raises(ValueError, match="propensity"):
        sequential.difference([sequential.Unit(True, 0.0, 1.0)], ALPHA, TIGHTEST_AT)
