"""`step` is pure: each state, what it waits for, and what ends it."""

import dataclasses
import datetime

import pytest

from trimtab.core import completions, ledger, lines, releases, text
from trimtab.rollout import backend, line, steps

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
CONFIG = lines.ReleaseConfig(minimum_sessions=40, maximum_sessions=400, safety_completions=20)
State = releases.ReleaseState
OLD, NEW = "a" * 64, "b" * 64
STABLE, CANDIDATE = line.STABLE, line.CANDIDATE


def serving(*, anchor: str = OLD) -> line.Line:
    """A line whose adopted policy serves."""
    adopted = releases.Release(
        id="r0",
        context=text.Context("acme", "support"),
        revision=3,
        candidate_id=OLD,
        stable_id="",
        anchor_id=anchor,
        state=State.PROMOTED,
        salt=b"salt",
        created_at=NOW,
        arms=(releases.ArmTarget(STABLE, OLD, "old:1", 1.0, "old-digest"),),
        rule=line.ADOPTED,
        history=(releases.Transition(State.PROMOTED, NOW, "Adopted.", "ann"),),
    )
    return line.Line("acme", "support").with_record(adopted)


def begun(*, rule: str = "") -> releases.Release:
    waiting = serving().new(NEW, CONFIG, NOW, rule=rule)
    return steps.begin(line.moved(waiting, State.PENDING, "Published.", NOW), serving(), NOW)


def seen(
    *, after_s: float = 1.0, up: bool = True, digest: str = "new-digest", policy: str = NEW, **more: object
) -> steps.Seen:
    process = backend.ProcessStatus("new:1", up, "" if up else "it is loading")
    described = completions.DescribeResponse(policy, digest, "local", 512) if up else None
    look = steps.Seen(NOW + datetime.timedelta(seconds=after_s), process, described, "new-digest")
    return dataclasses.replace(look, **more)


def in_state(state: State) -> releases.Release:
    """The release brought to a state by the steps themselves."""
    release = begun()
    for looked in (seen(), seen(evidence=answered(20))):
        if release.state is state:
            return release
        release = steps.step(release, looked, CONFIG)
    if release.state is not state:
        outcome = {State.PROMOTING: (0.2, 0.9), State.ROLLING_BACK: (0.9, 0.2)}[state]
        release = steps.step(release, seen(evidence=voted(*outcome)), CONFIG)
    assert release.state is state
    return release


def first(tokens: float = 20.0, reward: float = 0.0) -> ledger.FirstAnswer:
    return ledger.FirstAnswer(latency_s=0.5, tokens=tokens, refused=0.0, repeats=0.0, failed=False, reward=reward)


def answered(completions_: int) -> ledger.EvidenceResponse:
    return ledger.EvidenceResponse(totals=(ledger.ArmTotals(CANDIDATE, completions_, 0, 0, 0, 0.0),))


def voted(
    stable: float,
    candidate: float,
    count: int = 240,
    *,
    stage: str = "evidence",
    tokens: float = 20.0,
    reward: float = 0.0,
) -> ledger.EvidenceResponse:
    """tokens, reward: of the candidate's first answers; the stable policy's have 20, and 0."""
    sessions = []
    for position in range(count):
        arm = CANDIDATE if position % 2 else STABLE
        share = candidate if position % 2 else stable
        outcome = float((position // 2 * 0.618034) % 1 < share)
        answer = first(tokens, reward) if position % 2 else first()
        sessions.append(ledger.SessionOutcome(arm, 0.5, NOW, 1, True, outcome, stage, answer))
    return ledger.EvidenceResponse(tuple(sessions))


def weights(release: releases.Release) -> dict[str, float]:
    return {target.policy_id[0]: target.weight for target in release.arms}


def test_a_release_that_begins_keeps_all_traffic_on_the_stable_policy() -> None:
    release = begun()
    assert release.state is State.VERIFYING
    assert weights(release) == {"a": 1.0, "b": 0.0}
    assert line.arm(release.arms, CANDIDATE).address == ""
    assert (release.stable_id, release.anchor_id) == (OLD, OLD)


def test_verifying_waits_for_the_process_and_then_gives_it_the_safety_weight() -> None:
    waiting = begun()
    assert steps.step(waiting, seen(up=False), CONFIG) is waiting
    release = steps.step(waiting, seen(), CONFIG)
    assert release.state is State.SAFETY
    assert weights(release) == pytest.approx({"a": 0.9, "b": 0.1})
    target = line.arm(release.arms, CANDIDATE)
    assert (target.address, target.loaded_digest) == ("new:1", "new-digest")


@pytest.mark.parametrize("state", [State.VERIFYING, State.SAFETY, State.EVIDENCE, State.PROMOTING])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"digest": "other"}, "loaded bytes with digest 'other'"),
        ({"policy": "c" * 64}, "serves policy 'ccc"),
        ({"problem": "There is no model."}, "There is no model."),
        ({"up": False, "process": backend.ProcessStatus("", False, "exit 1", 3)}, "ended 3 times: exit 1"),
    ],
)
def test_technical_trouble_fails_a_release_in_any_state_and_gives_all_traffic_back(state, wrong, words) -> None:
    release = steps.step(in_state(state), seen(**wrong), CONFIG)
    assert release.state is State.FAILED
    assert words in release.history[-1].reason
    assert weights(release) == {"a": 1.0}


def test_a_candidate_that_never_gets_ready_fails() -> None:
    late = seen(up=False, after_s=lines.ReleaseConfig().ready_within_s + 1)
    assert steps.step(begun(), late, CONFIG).state is State.FAILED


INCOMPLETE = backend.ProcessStatus("new:1", healthy=True, problem="1 of 2 pods is ready", complete=False)


@pytest.mark.parametrize("state", [State.VERIFYING, State.PROMOTING])
def test_traffic_moves_only_once_all_replicas_are_there_and_not_for_ever(state) -> None:
    release = in_state(state)
    assert steps.step(release, seen(process=INCOMPLETE), CONFIG) is release
    old = dataclasses.replace(CONFIG, ready_within_s=0)  # a record from before the setting
    assert steps.step(release, seen(process=INCOMPLETE, after_s=100), old).state is state
    config = dataclasses.replace(CONFIG, ready_within_s=60)
    ended = steps.step(release, seen(process=INCOMPLETE, after_s=100), config)
    assert ended.state is State.FAILED
    assert ended.history[-1].reason == "It was not ready within 60 s: 1 of 2 pods is ready."
    assert steps.step(release, seen(), CONFIG).state is not state


def test_what_keeps_it_from_moving_on_is_on_its_record_once_it_takes_long() -> None:
    release = begun()
    assert steps.step(release, seen(process=INCOMPLETE, after_s=9), CONFIG) is release
    waits = steps.step(release, seen(process=INCOMPLETE, after_s=11), CONFIG)
    assert waits == dataclasses.replace(release, waits_for="1 of 2 pods is ready")
    assert steps.step(waits, seen(process=INCOMPLETE, after_s=12), CONFIG) is waits
    assert steps.step(waits, seen(up=False, after_s=13), CONFIG).waits_for == "it is loading"
    assert steps.step(waits, seen(after_s=14), CONFIG).waits_for == ""
    watched = in_state(State.EVIDENCE)
    silent = steps.step(watched, seen(up=False, unhealthy_s=11), CONFIG)
    assert silent == dataclasses.replace(watched, waits_for="it is loading")
    assert steps.step(silent, seen(evidence=voted(0.5, 0.5)), CONFIG).waits_for == ""


@pytest.mark.parametrize("state", [State.SAFETY, State.EVIDENCE])
def test_a_replica_that_goes_while_others_answer_ends_nothing(state) -> None:
    release = in_state(state)
    assert steps.step(release, seen(process=INCOMPLETE, after_s=1e6), CONFIG) is release


@pytest.mark.parametrize("state", [State.SAFETY, State.EVIDENCE, State.PROMOTING])
def test_a_candidate_that_falls_silent_is_waited_for_a_little_and_then_fails(state) -> None:
    release = in_state(state)
    assert steps.step(release, seen(up=False, unhealthy_s=5), CONFIG) is release
    assert steps.step(release, seen(up=False, unhealthy_s=31), CONFIG).state is State.FAILED


def test_safety_waits_for_its_completions_then_evidence_starts_at_its_constant_weight() -> None:
    release = in_state(State.SAFETY)
    few = steps.step(release, seen(evidence=answered(19)), CONFIG)
    assert few.state is State.SAFETY
    started = steps.step(few, seen(after_s=9, evidence=answered(20)), CONFIG)
    assert started.state is State.EVIDENCE
    assert weights(started) == {"a": 0.5, "b": 0.5}
    assert started.evidence_started_at == NOW + datetime.timedelta(seconds=9)


def test_a_ledger_that_is_away_changes_nothing() -> None:
    for state in (State.SAFETY, State.EVIDENCE):
        release = in_state(state)
        assert steps.step(release, seen(evidence=None), CONFIG) is release


def test_better_promotes_and_swaps_the_roles_with_the_old_policy_kept_for_undo() -> None:
    release = in_state(State.PROMOTING)
    assert release.evidence.verdict is releases.Verdict.BETTER
    promoted = steps.step(release, seen(), CONFIG)
    assert promoted.state is State.PROMOTED
    assert line.arm(promoted.arms, STABLE).policy_id == NEW
    assert line.arm(promoted.arms, CANDIDATE).policy_id == OLD
    assert line.arm(promoted.arms, CANDIDATE).address == "old:1"
    assert weights(promoted) == {"b": 1.0, "a": 0.0}
    assert (promoted.stable_id, promoted.anchor_id) == (OLD, OLD)


def test_worse_takes_the_traffic_away_at_once_and_the_process_after_it_has_drained() -> None:
    release = in_state(State.ROLLING_BACK)
    assert weights(release) == {"a": 1.0, "b": 0.0}
    assert steps.step(release, seen(after_s=1.5), CONFIG) is release
    gone = steps.step(release, seen(after_s=1 + steps.SETTLE_S, up=False), CONFIG)
    assert gone.state is State.ROLLED_BACK
    assert weights(gone) == {"a": 1.0}
    assert "worse" in gone.history[-1].reason


def test_not_proven_withdraws_the_candidate() -> None:
    release = steps.step(in_state(State.EVIDENCE), seen(evidence=voted(0.6, 0.6, 400)), CONFIG)
    assert release.state is State.NOT_PROVEN
    assert weights(release) == {"a": 1.0}


def test_undecided_only_writes_new_figures_and_offsets_alone_are_no_news() -> None:
    release = in_state(State.EVIDENCE)
    looked = seen(evidence=voted(0.5, 0.6, 60))
    updated = steps.step(release, looked, CONFIG)
    assert updated.state is State.EVIDENCE
    assert updated.evidence.verdict is releases.Verdict.UNDECIDED
    further = dataclasses.replace(looked.evidence, consumed={"feedback/0": 9})
    assert steps.step(updated, seen(evidence=further), CONFIG) is updated


def at(after_s: float, found: ledger.EvidenceResponse) -> steps.Seen:
    return seen(after_s=after_s, evidence=dataclasses.replace(found, at=NOW + datetime.timedelta(seconds=after_s)))


def test_figures_of_an_open_verdict_are_written_anew_once_they_are_old_for_the_age_of_their_stage() -> None:
    release = steps.step(in_state(State.EVIDENCE), at(1000.0, voted(0.5, 0.6, 100)), CONFIG)
    assert release.evidence.arms[0].voted == 50
    soon, later = (at(after_s, voted(0.5, 0.6, 110)) for after_s in (1004.0, 1006.0))
    assert steps.step(release, soon, CONFIG) is release
    assert steps.step(release, later, CONFIG).evidence.arms[0].voted == 55


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (voted(0.2, 0.9), State.PROMOTING),
        (voted(0.9, 0.2), State.ROLLING_BACK),
        (voted(0.5, 0.5, 400), State.NOT_PROVEN),
        (voted(0.5, 0.5, 300, tokens=90.0), State.ROLLING_BACK),
    ],
)
def test_what_decides_a_release_is_written_at_once(found: ledger.EvidenceResponse, state: State) -> None:
    release = steps.step(in_state(State.EVIDENCE), at(1000.0, voted(0.5, 0.6, 60)), CONFIG)
    assert steps.step(release, at(1000.1, found), CONFIG).state is state


def test_a_guardrail_that_becomes_known_is_written_at_once() -> None:
    release = steps.step(in_state(State.EVIDENCE), at(1000.0, voted(0.5, 0.6, 60)), CONFIG)
    known = steps.step(release, at(1000.1, voted(0.5, 0.6, 70)), CONFIG)
    assert known.evidence.guardrails != release.evidence.guardrails
    assert known.evidence.verdict is release.evidence.verdict is releases.Verdict.UNDECIDED


def test_a_paused_release_moves_neither_forward_nor_out_but_still_back() -> None:
    paused = dataclasses.replace(in_state(State.EVIDENCE), paused=True)
    assert steps.step(paused, seen(evidence=voted(0.2, 0.9)), CONFIG).state is State.EVIDENCE
    assert steps.step(paused, seen(evidence=voted(0.6, 0.6, 400)), CONFIG).state is State.EVIDENCE
    assert steps.step(paused, seen(evidence=voted(0.9, 0.2)), CONFIG).state is State.ROLLING_BACK
    assert steps.step(paused, seen(digest="other"), CONFIG).state is State.FAILED
    verifying = dataclasses.replace(begun(), paused=True)
    assert steps.step(verifying, seen(), CONFIG) is verifying
    safety = dataclasses.replace(in_state(State.SAFETY), paused=True)
    assert steps.step(safety, seen(evidence=answered(99)), CONFIG).state is State.SAFETY


def test_an_adoption_serves_and_anchors_as_soon_as_it_is_verified() -> None:
    release = steps.step(begun(rule=line.ADOPTED), seen(), CONFIG)
    assert release.state is State.PROMOTED
    assert release.anchor_id == NEW
    assert weights(release) == {"b": 1.0, "a": 0.0}


def test_a_first_adoption_has_no_other_arm() -> None:
    empty = line.Line("acme", "support")
    release = steps.begin(empty.new(NEW, CONFIG, NOW, rule=line.ADOPTED), empty, NOW)
    assert weights(release) == {"b": 0.0}
    adopted = steps.step(release, seen(), CONFIG)
    assert weights(adopted) == {"b": 1.0}
    assert (adopted.stable_id, adopted.anchor_id) == ("", NEW)
    failed = steps.step(release, seen(digest="other"), CONFIG)
    assert (failed.state, failed.arms, failed.anchor_id) == (State.FAILED, (), "")


def test_adopting_what_serves_already_as_anchor_leaves_one_arm() -> None:
    release = steps.begin(serving(anchor="c" * 64).new(OLD, CONFIG, NOW, rule=line.ADOPTED), serving(), NOW)
    adopted = steps.step(release, seen(policy=OLD), CONFIG)
    assert weights(adopted) == {"a": 1.0}
    assert adopted.anchor_id == OLD


def undoing() -> releases.Release:
    promoted = steps.step(in_state(State.PROMOTING), seen(), CONFIG)
    return line.moved(promoted, State.ROLLING_BACK, "Undone by an operator.", NOW, actor="ann", arms=promoted.arms)


def test_an_undo_goes_back_once_the_earlier_policy_is_verified() -> None:
    release = undoing()
    assert steps.subject(release) == OLD
    assert steps.step(release, seen(policy=OLD, up=False), CONFIG) is release
    undone = steps.step(release, seen(policy=OLD), CONFIG)
    assert undone.state is State.ROLLED_BACK
    assert weights(undone) == {"a": 1.0, "b": 0.0}
    assert line.arm(undone.arms, STABLE).policy_id == OLD


def test_an_undo_whose_earlier_policy_does_not_load_leaves_the_promoted_one_in_place() -> None:
    kept = steps.step(undoing(), seen(policy=OLD, digest="other"), CONFIG)
    assert kept.state is State.PROMOTED
    assert "The undo failed" in kept.history[-1].reason
    assert line.arm(kept.arms, STABLE).policy_id == NEW


@pytest.mark.parametrize("state", sorted(releases.FINAL_STATES | {State.PENDING}))
def test_final_and_waiting_releases_do_not_move_by_themselves(state) -> None:
    release = dataclasses.replace(begun(), state=state)
    assert steps.step(release, seen(), CONFIG) is release


def test_every_step_adds_to_the_history_where_from_and_why() -> None:
    promoted = steps.step(in_state(State.PROMOTING), seen(), CONFIG)
    path = [(move.from_state, move.to_state) for move in promoted.history]
    states = [State.PENDING, State.VERIFYING, State.SAFETY, State.EVIDENCE, State.PROMOTING, State.PROMOTED]
    assert path == list(zip([None, *states], states, strict=False))
    assert all(move.reason and move.actor == line.CONTROLLER for move in promoted.history)


@pytest.mark.parametrize("state", [State.SAFETY, State.EVIDENCE])
def test_a_breached_guardrail_rolls_back_in_either_stage_and_quarantines_nothing(state) -> None:
    release = in_state(state)
    looked = seen(evidence=voted(0.5, 0.5, stage=state.value, tokens=60.0))
    broken = steps.step(release, looked, CONFIG)
    assert broken.state is State.ROLLING_BACK
    assert weights(broken) == {"a": 1.0, "b": 0.0}
    assert "length 60 against 20, at most 50 % more" in broken.history[-1].reason.replace("%", " %").replace("  ", " ")
    assert not steps.found_worse(broken)
    paused = dataclasses.replace(release, paused=True)
    assert steps.step(paused, looked, CONFIG).state is State.ROLLING_BACK


@pytest.mark.parametrize("state", [State.SAFETY, State.EVIDENCE])
def test_a_breach_of_the_reward_rolls_back_and_says_that_the_candidate_is_worse(state) -> None:
    looked = seen(evidence=voted(0.5, 0.5, stage=state.value, reward=-2.0))
    broken = steps.step(in_state(state), looked, CONFIG)
    assert broken.state is State.ROLLING_BACK
    assert weights(broken) == {"a": 1.0, "b": 0.0}
    assert broken.history[-1].reason.endswith("at most 5.0% more, so the candidate is worse.")
    assert steps.found_worse(broken)
    led_to = releases.Quarantine(NOW, reward_ids=("r" * 64,), summary="Quarantined: reward model r.")
    ended = steps.step(broken, seen(after_s=9.0, led_to=led_to), CONFIG)
    assert (ended.state, ended.quarantine) == (State.ROLLED_BACK, led_to)
    assert ended.history[-1].reason.endswith("so the candidate is worse. Quarantined: reward model r.")


def test_unscored_answers_hold_a_better_candidate_back_and_roll_nothing_back() -> None:
    found = voted(0.2, 0.9)
    unscored = dataclasses.replace(
        found,
        sessions=tuple(
            dataclasses.replace(one, first=dataclasses.replace(one.first, reward=None)) for one in found.sessions
        ),
    )
    waits = steps.step(in_state(State.EVIDENCE), seen(evidence=unscored), CONFIG)
    assert waits.state is State.EVIDENCE
    assert "not known yet to keep within reward" in waits.evidence.reason
    unguarded = lines.unscored(CONFIG)
    assert steps.step(in_state(State.EVIDENCE), seen(evidence=unscored), unguarded).state is State.PROMOTING


def test_what_the_other_stage_saw_breaches_nothing() -> None:
    release = in_state(State.EVIDENCE)
    looked = seen(evidence=voted(0.5, 0.5, count=60, stage="safety", tokens=60.0))
    assert steps.step(release, looked, CONFIG).state is State.EVIDENCE


def test_worse_by_votes_stays_worse_when_a_guardrail_is_breached_as_well() -> None:
    broken = steps.step(in_state(State.EVIDENCE), seen(evidence=voted(0.9, 0.2, tokens=60.0)), CONFIG)
    assert broken.state is State.ROLLING_BACK
    assert steps.found_worse(broken)


@pytest.mark.parametrize("state", [State.SAFETY, State.EVIDENCE])
def test_a_line_without_traffic_ends_a_release_after_its_days_as_not_proven(state) -> None:
    release = in_state(state)
    nothing = ledger.EvidenceResponse()
    late = dataclasses.replace(seen(evidence=nothing), now=NOW + datetime.timedelta(days=29))
    assert steps.step(release, late, CONFIG).state is state
    later = dataclasses.replace(late, now=NOW + datetime.timedelta(days=31))
    ended = steps.step(release, later, CONFIG)
    assert ended.state is State.NOT_PROVEN
    assert "30 days have not decided it. No mature session has voted yet" in ended.history[-1].reason
    assert weights(ended) == {"a": 1.0}
    paused = dataclasses.replace(release, paused=True)
    assert steps.step(paused, later, CONFIG).state is state


def test_a_clock_that_goes_back_takes_nothing_back() -> None:
    """Sessions that were old enough are not any more: the release waits where it is."""
    release = steps.step(in_state(State.EVIDENCE), seen(evidence=voted(0.5, 0.7, 120)), CONFIG)
    assert release.evidence.arms[0].voted == 60
    young = voted(0.5, 0.7, 120)
    young = dataclasses.replace(young, sessions=tuple(dataclasses.replace(one, mature=False) for one in young.sessions))
    before = dataclasses.replace(seen(evidence=young), now=NOW - datetime.timedelta(days=2))
    after = steps.step(release, before, CONFIG)
    assert after.state is State.EVIDENCE
    assert after.evidence.arms[0].voted == 0


def test_the_record_that_begins_the_evidence_stage_has_that_stage_s_figures() -> None:
    """Else an audit of a release that an operator ends at once would not find what it holds."""
    looked = dataclasses.replace(
        voted(0.5, 0.5, 60, stage="safety"), totals=(ledger.ArmTotals(CANDIDATE, 99, 0, 0, 0, 0.0),)
    )
    begun_stage = steps.step(in_state(State.SAFETY), seen(evidence=looked), CONFIG)
    assert begun_stage.state is State.EVIDENCE
    assert begun_stage.evidence_started_at is not None
    assert {one.sessions for one in begun_stage.evidence.guardrails} == {0}
