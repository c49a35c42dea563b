"""The sequence errs in at most alpha of runs over all looks, and decides when there is a difference."""

import math
import random
import statistics

import pytest

from trimtab.core import sequential

# Of either end.
ERROR = 0.05
TIGHTEST_AT = 320.0


def sign(sequence: sequential.Sequence) -> int:
    """+1 when zero lies below the interval, -1 when above, else 0."""
    found = sequence.interval
    return (found.lower > 0) - (found.upper < 0)


def first_decision(rng: random.Random, sessions: int, weight: float, outcome) -> tuple[int, int]:
    sequence = sequential.Sequence(ERROR, ERROR, TIGHTEST_AT)
    for position in range(sessions):
        candidate = rng.random() < weight
        drawn = outcome(rng, candidate, position)
        sequence.add(sequential.Unit(candidate, weight if candidate else 1 - weight, drawn))
        if position >= 80 and (found := sign(sequence)):
            return found, position + 1
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
def test_on_identical_policies_either_end_errs_in_at_most_its_share_of_runs(outcome, weight) -> None:
    rng = random.Random(f"{outcome.__name__}/{weight}")
    runs = 400
    found = [first_decision(rng, 1500, weight, outcome)[0] for _ in range(runs)]
    for end in (1, -1):
        assert found.count(end) / runs <= ERROR, f"{found.count(end)} of {runs} false decisions"


def test_a_weight_that_is_changed_on_the_way_makes_no_verdict_wrong() -> None:
    """Each session brings the probability it was given its arm with; pooled counts would compare day with night."""
    rng = random.Random("changed")
    found = []
    for _ in range(400):
        sequence, decided = sequential.Sequence(ERROR, ERROR, TIGHTEST_AT), 0
        for position in range(1200):
            weight = 0.1 if position < 500 else 0.6
            candidate = rng.random() < weight
            outcome = drifting(rng, candidate, position)
            sequence.add(sequential.Unit(candidate, weight if candidate else 1 - weight, outcome))
            decided = decided or (sign(sequence) if position >= 80 else 0)
        found.append(decided)
    assert max(found.count(1), found.count(-1)) / 400 <= ERROR


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
    missed = {"above": 0, "below": 0}
    for _ in range(400):
        sequence, outside = sequential.Sequence(ERROR, ERROR, TIGHTEST_AT), ""
        for position in range(600):
            candidate = rng.random() < 0.2
            outcome = float(rng.random() < (0.7 if candidate else 0.5))
            sequence.add(sequential.Unit(candidate, 0.2 if candidate else 0.8, outcome))
            if position >= 80 and position % 10 == 0 and not outside:
                found = sequence.interval
                outside = "above" if found.lower > 0.2 else "below" if found.upper < 0.2 else ""
        if outside:
            missed[outside] += 1
    assert max(missed.values()) / 400 <= ERROR, missed


def test_each_end_has_an_error_of_its_own() -> None:
    sequence = sequential.Sequence(0.05, 0.01, TIGHTEST_AT)
    even = sequential.Sequence(0.05, 0.05, TIGHTEST_AT)
    for position in range(200):
        unit = sequential.Unit(position % 2 == 0, 0.5, float(position % 3 == 0))
        sequence.add(unit)
        even.add(unit)
    assert sequence.interval.lower == even.interval.lower
    assert sequence.interval.upper > even.interval.upper


def test_the_error_of_an_end_is_that_of_the_one_sided_mixture() -> None:
    """2 Phi(z) sqrt(rho / (S + rho)) exp(z^2 / 2) is at least 1 / error everywhere on the boundary, and hardly more."""
    eta = sequential.mixture_scale(ERROR, TIGHTEST_AT)
    rho = 1 / eta**2
    for spread in (1.0, 30.0, 320.0, 5000.0):
        z = sequential.radius(spread, 1, ERROR, eta) / math.sqrt(spread + rho)
        mixture = 2 * statistics.NormalDist().cdf(z) * math.sqrt(rho / (spread + rho)) * math.exp(z * z / 2)
        assert 1 <= mixture * ERROR < 1.02


@pytest.mark.parametrize("weight", [0.03, 0.1, 0.2, 0.5, 0.8, 0.97])
def test_what_the_boundary_stands_on_holds_for_any_weight(weight) -> None:
    """E exp(l x - l^2 (x^2 + 2 v) / 6) <= 1 where arms do not differ; with x^2 alone it does not hold."""
    large, small, variance = 1 / weight, -1 / (1 - weight), 1 / (weight * (1 - weight))

    def expectation(slope: float, spread) -> float:
        each = ((weight, large), (1 - weight, small))
        return sum(chance * math.exp(slope * x - slope**2 / 2 * spread(x)) for chance, x in each)

    slopes = [sign * step / 400 for sign in (1, -1) for step in range(1, 1200)]
    assert max(expectation(slope, lambda x: (x * x + 2 * variance) / 3) for slope in slopes) <= 1
    if weight != 0.5:
        assert max(expectation(slope, lambda x: x * x) for slope in slopes) > 1


def test_nothing_seen_says_nothing() -> None:
    interval = sequential.difference([], ERROR, TIGHTEST_AT)
    assert (interval.lower, interval.upper, interval.units) == (-math.inf, math.inf, 0)


def test_the_scale_makes_the_boundary_tightest_where_it_was_asked_for() -> None:
    best = sequential.radius(320, 320, ERROR, sequential.mixture_scale(ERROR, 320))
    for elsewhere in (40, 100, 1000, 5000):
        assert best < sequential.radius(320, 320, ERROR, sequential.mixture_scale(ERROR, elsewhere))


def test_an_impossible_propensity_is_refused() -> None:
    with pytest.raises(ValueError, match="propensity"):
        sequential.difference([sequential.Unit(True, 0.0, 1.0)], ERROR, TIGHTEST_AT)
