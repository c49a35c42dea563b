"""Simulated users vote as they are said to, and their releases are judged by the code that judges real ones."""

import dataclasses
import datetime
import statistics

import pytest

from trimtab.core import completions, errors, ledger, lines, releases
from trimtab.rollout import evidence, simulation

Users = simulation.Users
CONFIG = lines.ReleaseConfig(maturity_s=0.0, maximum_sessions=4000)
FIRST = ledger.FirstAnswer(0.5, 20.0, 0.0, 0.0, failed=False, reward=0.0)
MANY = Users(sessions_per_day=2400.0, approval=0.6)


def sessions_of(users: Users, *, days: float = 2.0, config: lines.ReleaseConfig = CONFIG) -> list[simulation.Session]:
    """All that come in so many days, with a rule that does not decide before."""
    seen: list[simulation.Session] = []
    endless = dataclasses.replace(config, minimum_sessions=10**6, maximum_sessions=10**7)
    simulation.play(users, endless, "sessions", days=days, saw=seen.append)
    return seen


def shares(seen: list[simulation.Session]) -> list[float]:
    return [statistics.fmean(up for _, up in session.votes) for session in seen if session.votes]


def test_a_seed_gives_the_same_release_again() -> None:
    first, again, other = (simulation.play(MANY, CONFIG, seed, days=5) for seed in ("a", "a", "b"))
    assert first == again != other


@pytest.mark.parametrize(("difference", "verdict"), [(0.2, releases.Verdict.BETTER), (-0.2, releases.Verdict.WORSE)])
def test_a_clear_difference_gets_its_verdict(difference, verdict) -> None:
    users = dataclasses.replace(MANY, difference=difference)
    assert [simulation.play(users, CONFIG, str(run), days=5).verdict for run in range(20)] == [verdict] * 20


def test_a_release_without_a_difference_mostly_ends_as_not_proven() -> None:
    found = [simulation.play(MANY, CONFIG, str(run), days=5) for run in range(20)]
    assert sum(one.verdict is releases.Verdict.NOT_PROVEN for one in found) >= 17


def test_the_verdict_is_that_of_real_releases_on_the_same_sessions() -> None:
    users = dataclasses.replace(MANY, difference=0.15, occasions=3, likeness=0.3, response=0.5)
    seen: list[simulation.Session] = []
    ended = simulation.play(users, CONFIG, "real", days=5, saw=seen.append)
    at = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    real = tuple(
        ledger.SessionOutcome(one.arm, one.propensity, at, len(one.votes), mature=True, outcome=outcome, first=FIRST)
        for one, outcome in ((one, shares([one])[0] if one.votes else None) for one in seen)
    )
    found = evidence.judge(ledger.EvidenceResponse(real), CONFIG)
    assert found.verdict is ended.verdict is releases.Verdict.BETTER
    assert ended.voted == tuple(arm.voted for arm in found.arms)


def test_votes_of_a_session_are_as_alike_as_asked() -> None:
    users = dataclasses.replace(MANY, approval=0.5, occasions=5, likeness=0.3)
    spread = statistics.pvariance(shares(sessions_of(users)))
    assert spread == pytest.approx(0.25 * (1 + 4 * 0.3) / 5, rel=0.08)


def test_satisfied_and_unsatisfied_users_answer_as_often_as_said() -> None:
    users = dataclasses.replace(MANY, approval=0.5, response=0.3, response_unsatisfied=0.6)
    seen = sessions_of(users)
    assert len(shares(seen)) / len(seen) == pytest.approx(0.45, abs=0.03)
    assert statistics.fmean(shares(seen)) == pytest.approx(1 / 3, abs=0.03)


def test_traffic_swings_with_the_day_and_keeps_its_mean() -> None:
    seen = sessions_of(dataclasses.replace(MANY, daily_swing=0.8), days=4.0)
    noon = sum(9 <= one.at_h % 24 < 15 for one in seen)
    midnight = sum(one.at_h % 24 < 3 or one.at_h % 24 >= 21 for one in seen)
    assert len(seen) == pytest.approx(9600, rel=0.05)
    assert noon > 5 * midnight


def test_drift_raises_both_arms() -> None:
    seen = sessions_of(dataclasses.replace(MANY, approval=0.3, drift=0.2), days=3.0)
    for arm in completions.Arm:
        late = [one for one in seen if one.arm is arm and one.at_h > 60]
        assert statistics.fmean(shares(late)) == pytest.approx(0.3 + 0.2 * 2.75, abs=0.05)


def test_the_spiteful_vote_all_down_and_the_aiming_by_the_arm() -> None:
    spiteful = sessions_of(dataclasses.replace(MANY, approval=1.0, spite=0.1))
    assert statistics.fmean(shares(spiteful)) == pytest.approx(0.9, abs=0.02)
    aiming = sessions_of(dataclasses.replace(MANY, approval=0.5, aimed=1.0))
    assert {(one.arm, up) for one in aiming for _, up in one.votes} == {
        (completions.Arm.CANDIDATE, True),
        (completions.Arm.STABLE, False),
    }


def test_votes_older_than_the_window_do_not_count() -> None:
    users = dataclasses.replace(MANY, delay_h=(1.0, 24.0))
    window = dataclasses.replace(CONFIG, maturity_s=3600.0)
    ended = simulation.play(users, window, "late", days=2)
    assert ended.voted == (0, 0)
    assert ended.verdict is releases.Verdict.UNDECIDED
    day = dataclasses.replace(CONFIG, maturity_s=86_400.0)
    assert sum(simulation.play(users, day, "late", days=2).voted) == pytest.approx(2400, rel=0.1)


def test_ten_points_take_at_most_half_as_many_votes_again_as_a_test_that_knows_both_rates() -> None:
    """267 votes on the candidate is what Wald's test needs that is told .7 and .6 (the reference case)."""
    at_once = lines.ReleaseConfig(maturity_s=0.0)
    for approval, difference in ((0.6, 0.1), (0.7, -0.1)):
        users = Users(sessions_per_day=2400.0, approval=approval, difference=difference)
        ended = [simulation.play(users, at_once, str(run), days=10, look_every_h=0.05) for run in range(150)]
        assert statistics.fmean(one.voted[1] for one in ended) <= 1.5 * 267
        right = releases.Verdict.BETTER if difference > 0 else releases.Verdict.WORSE
        assert sum(one.verdict is right for one in ended) >= 145


def test_the_summary_counts_every_release_once() -> None:
    worse = simulation.Ended(releases.Verdict.WORSE, 300, (80, 70), 1.5)
    better = simulation.Ended(releases.Verdict.BETTER, 100, (20, 30), 0.5)
    still = simulation.Ended(releases.Verdict.UNDECIDED, 900, (200, 210), 30.0)
    found = simulation.summary([better, worse, still, still])
    assert (found.better, found.worse, found.not_proven, found.undecided) == (0.25, 0.25, 0.0, 0.5)
    assert (found.half_days, found.most_days, found.half_sessions, found.most_sessions) == (0.5, 1.5, 100, 300)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"sessions_per_day": 0.0}, "sessions_per_day"),
        ({"occasions": 0}, "occasions"),
        ({"likeness": 1.5}, "likeness"),
        ({"approval": 0.95, "difference": 0.1}, "difference"),
        ({"delay_h": (5.0, 1.0)}, "delay_h"),
    ],
)
def test_what_cannot_be_simulated_is_refused_by_name(given, named) -> None:
    with pytest.raises(errors.InvalidField, match=named):
        Users(**given)
