"""The verdict follows the line's rule, says why in a sentence, and never comes too early or never."""

import dataclasses
import datetime
import random

import pytest

from trimtab.core import completions, ledger, lines, releases
from trimtab.rollout import evidence

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
CONFIG = lines.ReleaseConfig(minimum_sessions=40, maximum_sessions=4000)
FIRST = ledger.FirstAnswer(0.5, 20.0, 0.0, 0.0, failed=False, reward=0.0)
STABLE, CANDIDATE = completions.Arm.STABLE, completions.Arm.CANDIDATE


def sessions(
    stable: float, candidate: float, count: int, *, answer=(1.0, 1.0), mature: bool = True, seed: int = 1
) -> ledger.EvidenceResponse:
    """`count` sessions: approval and answer rate per arm (stable, candidate)."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        arm = CANDIDATE if rng.random() < 0.5 else STABLE
        votes = rng.random() < answer[arm is CANDIDATE]
        outcome = float(rng.random() < (candidate if arm is CANDIDATE else stable)) if votes else None
        found.append(ledger.SessionOutcome(arm, 0.5, NOW, int(votes), mature, outcome, first=FIRST))
    totals = (ledger.ArmTotals(CANDIDATE, 77, 0, 0, 0, 0.0), ledger.ArmTotals(STABLE, 99, 0, 0, 0, 0.0))
    return ledger.EvidenceResponse(tuple(found), totals, {"feedback/0": 12})


def test_a_better_candidate_is_proven_and_the_reason_carries_the_figures() -> None:
    found = evidence.judge(sessions(0.45, 0.70, 700), CONFIG)
    assert found.verdict is releases.Verdict.BETTER
    assert found.lower > 0
    assert "Candidate approval 0.7" in found.reason
    assert "over 700 sessions" in found.reason
    assert "95 % sure of each end" in found.reason
    assert found.consumed == {"feedback/0": 12}
    by_arm = {arm.arm: arm for arm in found.arms}
    assert by_arm[CANDIDATE].completions == 77
    assert by_arm[STABLE].sessions + by_arm[CANDIDATE].sessions == 700


def test_a_worse_candidate_is_worse_under_both_rules() -> None:
    seen = sessions(0.6, 0.2, 300)
    assert evidence.judge(seen, CONFIG).verdict is releases.Verdict.WORSE
    lenient = dataclasses.replace(CONFIG, rule="noninferior", margin=0.05)
    assert evidence.judge(seen, lenient).verdict is releases.Verdict.WORSE


def test_noninferior_passes_an_equal_candidate_that_superior_does_not() -> None:
    seen = sessions(0.6, 0.6, 3500)
    assert evidence.judge(seen, CONFIG).verdict is not releases.Verdict.BETTER
    lenient = dataclasses.replace(CONFIG, rule="noninferior", margin=0.1)
    assert evidence.judge(seen, lenient).verdict is releases.Verdict.BETTER


def test_no_verdict_before_each_arm_has_its_minimum() -> None:
    found = evidence.judge(sessions(0.0, 1.0, 60), CONFIG)
    assert found.lower > 0
    assert found.verdict is releases.Verdict.UNDECIDED
    assert "40 voting sessions in each arm" in found.reason


def test_immature_sessions_do_not_count() -> None:
    found = evidence.judge(sessions(0.2, 0.9, 500, mature=False), CONFIG)
    assert found.verdict is releases.Verdict.UNDECIDED
    assert "No mature session has voted yet" in found.reason
    assert sum(arm.sessions for arm in found.arms) == 500
    assert sum(arm.mature for arm in found.arms) == 0


def test_the_maximum_ends_an_undecided_release_as_not_proven() -> None:
    config = dataclasses.replace(CONFIG, maximum_sessions=500)
    found = evidence.judge(sessions(0.6, 0.61, 500), config)
    assert found.verdict is releases.Verdict.NOT_PROVEN


def test_futility_ends_a_release_that_can_no_longer_be_proven() -> None:
    seen = sessions(0.6, 0.58, 3600, seed=3)
    found = evidence.judge(seen, CONFIG)
    assert found.verdict is releases.Verdict.NOT_PROVEN
    assert "could not be shown" in found.reason


def test_what_is_on_course_to_be_shown_worse_is_not_ended_as_not_proven() -> None:
    """Only "worse" quarantines what a candidate was made from."""
    verdicts = [evidence.judge(sessions(0.6, 0.5, count, seed=4), CONFIG).verdict for count in range(100, 1600, 50)]
    assert verdicts[-1] is releases.Verdict.WORSE
    assert releases.Verdict.NOT_PROVEN not in verdicts


def test_arms_that_differ_in_how_many_vote_hold_better_back() -> None:
    found = evidence.judge(sessions(0.45, 0.75, 1500, answer=(0.9, 0.4)), CONFIG)
    assert found.lower > 0
    assert found.verdict is releases.Verdict.UNDECIDED
    assert "differ in how many sessions vote" in found.reason


def test_held_back_until_the_maximum_it_is_not_proven_and_the_reason_names_the_gap() -> None:
    config = dataclasses.replace(CONFIG, maximum_sessions=900)
    found = evidence.judge(sessions(0.45, 0.75, 1500, answer=(0.9, 0.4)), config)
    assert found.verdict is releases.Verdict.NOT_PROVEN
    assert "all of it lies above +0.00, but the arms differ in how many sessions vote (-0." in found.reason
    assert "and 900 have voted" in found.reason


def test_arms_that_differ_in_how_many_vote_do_not_hold_worse_back() -> None:
    found = evidence.judge(sessions(0.75, 0.25, 1500, answer=(0.9, 0.4)), CONFIG)
    assert found.verdict is releases.Verdict.WORSE


@pytest.mark.parametrize("answer", [0.1, 0.5, 1.0])
def test_the_difference_is_per_voting_session_whatever_the_answer_rate(answer: float) -> None:
    found = evidence.judge(sessions(0.4, 0.7, 12_000, answer=(answer, answer)), CONFIG)
    assert found.difference == pytest.approx(0.3, abs=0.1)
