"""Evidence counts sessions, by their first randomised exposure, each once and at the same age."""

import dataclasses

import pytest
from tests.unit.ledger import making

from trimtab.core import completions, errors, feedback, text
from trimtab.core import ledger as core_ledger
from trimtab.ledger import evidence

STABLE, CANDIDATE = completions.Arm.STABLE, completions.Arm.CANDIDATE


def ask(
    store: making.Ledger, *, now: float = 100.0, maturity_s: float = 50.0, tenant: str = making.TENANT
) -> core_ledger.EvidenceResponse:
    request = core_ledger.EvidenceRequest(tenant, "rel", maturity_s)
    return evidence.evidence(store.store, request, making.at(now))


def test_a_sessions_outcome_is_the_mean_of_its_thumbs(ledger: making.Ledger) -> None:
    first = making.completion("s", 1, exposure=making.exposed(arm=STABLE, propensity=0.75), created=10.0)
    second = making.completion("s", 2, exposure=making.exposed(arm=STABLE, propensity=0.75), created=20.0)
    quiet = making.completion("quiet", exposure=making.exposed(), created=5.0)
    ledger.take(first, second, quiet)
    ledger.take(*(making.thumb(one, f"f{up}", up=up, rater=str(up)) for one in (first, second) for up in (True,)))
    ledger.take(making.thumb(second, "no", up=False, rater="else"))
    silent, voted = ask(ledger).sessions
    assert (silent.arm, silent.votes, silent.outcome, silent.mature) == (CANDIDATE, 0, None, True)
    assert (voted.arm, voted.propensity, voted.exposed_at) == (STABLE, 0.75, making.at(10.0))
    assert (voted.votes, voted.outcome) == (3, 2 / 3)


def test_stars_are_votes_on_the_scale_from_0_to_1_and_other_kinds_are_none(ledger: making.Ledger) -> None:
    answer = making.completion(exposure=making.exposed(), texts=["a", "b"])
    target = making.ref(answer)
    ledger.take(answer, making.thumb(answer, "thumb", up=True, choice=1))
    ledger.take(making.event(feedback.Rating(target, 2, 5), "stars", about=answer))
    others: list[feedback.Kind] = [
        feedback.Comparison(target, making.ref(answer, 1)),
        feedback.Ranking((feedback.RankedResponse(target, 1), feedback.RankedResponse(making.ref(answer, 1), 2))),
        feedback.Edit(target, text.Text("better")),
        feedback.Critique(target, text.Text("dull")),
        feedback.Signal(target, feedback.SignalKind.ABANDON),
    ]
    ledger.take(*(making.event(kind, f"f{number}", about=answer) for number, kind in enumerate(others)))
    [session] = ask(ledger).sessions
    assert (session.votes, session.outcome) == (2, (1.0 + 0.25) / 2)
    [total] = ask(ledger).totals
    assert (total.votes, total.vote_sum) == (2, 1.25)
    ledger.take(making.event(feedback.Rating(target, 10, 10), "more", about=answer, occurred=3.0))
    ledger.take(making.event(feedback.Retraction("", answer.id), "back", about=answer, supersedes=["thumb"]))
    [session] = ask(ledger).sessions
    assert (session.votes, session.outcome) == (1, 1.0)


def test_a_model_s_votes_are_no_evidence(ledger: making.Ledger) -> None:
    answer = making.completion(exposure=making.exposed())
    ledger.take(answer, making.thumb(answer, "person", up=False, rater="ada"))
    ledger.take(making.thumb(answer, "machine", up=True, rater="judge", rater_kind=feedback.RaterKind.MODEL))
    [session] = ask(ledger).sessions
    assert (session.votes, session.outcome) == (1, 0.0)
    [total] = ask(ledger).totals
    assert (total.votes, total.vote_sum) == (1, 0.0)


def test_a_session_that_met_the_release_in_an_earlier_stage_belongs_to_that_one(ledger: making.Ledger) -> None:
    later = making.completion("s", 2, exposure=making.exposed(), created=20.0)
    earlier = making.completion("s", 1, exposure=making.exposed(stage="safety"), created=10.0)
    ledger.take(later, making.thumb(later))
    assert [session.stage for session in ask(ledger).sessions] == ["evidence"]
    ledger.take(earlier)
    assert [session.stage for session in ask(ledger).sessions] == ["safety"]


def test_what_a_policy_measured_is_that_of_the_first_answer(ledger: making.Ledger) -> None:
    measured = [completions.Measured(tokens=float(tokens), refused=0.5) for tokens in (10, 20)]
    later, earlier = (
        dataclasses.replace(making.completion("s", number, exposure=making.exposed(), created=created), measured=one)
        for number, created, one in ((2, 20.0, measured[1]), (1, 10.0, measured[0]))
    )
    bare = making.completion("other", exposure=making.exposed(), created=30.0)
    ledger.take(later)
    assert [one.first.tokens for one in ask(ledger).sessions] == [20.0]
    ledger.take(earlier, bare)
    first, second = ask(ledger).sessions
    assert first.first == core_ledger.FirstAnswer(0.5, 10.0, 0.5, 0.0, failed=False)
    assert second.first is None


def test_a_session_seen_by_both_arms_counts_once_in_the_arm_it_met_first(ledger: making.Ledger) -> None:
    """As it was drawn, whatever it saw later: else who moves on would choose the arm."""
    first = making.completion("s", 1, exposure=making.exposed(arm=STABLE), created=10.0)
    second = making.completion("s", 2, exposure=making.exposed(arm=CANDIDATE), created=20.0)
    ledger.take(first, second, making.thumb(first, up=True), making.thumb(second, up=False))
    [session] = ask(ledger).sessions
    assert (session.arm, session.votes, session.outcome) == (STABLE, 2, 0.5)


def test_the_first_exposure_is_the_first_created_and_not_the_first_to_arrive(ledger: making.Ledger) -> None:
    late = making.completion("s", 1, exposure=making.exposed(arm=STABLE), created=20.0)
    early = making.completion("s", 2, exposure=making.exposed(arm=CANDIDATE, propensity=0.3), created=10.0)
    ledger.take(late)
    ledger.take(early)
    [session] = ask(ledger).sessions
    assert (session.arm, session.propensity, session.exposed_at) == (CANDIDATE, 0.3, making.at(10.0))


def test_a_session_s_segment_is_that_of_its_first_exposure(ledger: making.Ledger) -> None:
    later = making.completion("s", 1, exposure=making.exposed(), created=20.0, segment="web")
    first = making.completion("s", 2, exposure=making.exposed(), created=10.0, segment="mobile-de")
    ledger.take(later, making.completion("t", exposure=making.exposed(), created=30.0))
    assert [session.segment for session in ask(ledger).sessions] == ["web", ""]
    ledger.take(first)
    assert [session.segment for session in ask(ledger).sessions] == ["mobile-de", ""]


def test_pinned_and_imported_completions_are_no_exposure(ledger: making.Ledger) -> None:
    pinned = making.completion("pinned", exposure=making.exposed(randomised=False))
    imported = making.completion("imported", exposure=making.exposed(), origin=completions.Origin.IMPORTED)
    ledger.take(pinned, imported, making.thumb(pinned), making.thumb(imported))
    found = ask(ledger)
    assert (found.sessions, [total.completions for total in found.totals]) == ((), [1])


def test_votes_after_the_maturity_window_are_told_and_do_not_count(ledger: making.Ledger) -> None:
    answer = making.completion(exposure=making.exposed(), created=10.0, texts=["a", "b"])
    ledger.take(answer, making.thumb(answer, "in", occurred=60.0))
    ledger.take(making.thumb(answer, "out", choice=1, up=False, occurred=60.1))
    [session] = ask(ledger).sessions
    assert (session.votes, session.outcome, session.late) == (1, 1.0, 1)


def test_a_session_is_mature_when_its_first_exposure_is_old_enough(ledger: making.Ledger) -> None:
    ledger.take(making.completion(exposure=making.exposed(), created=10.0))
    assert [ask(ledger, now=now).sessions[0].mature for now in (59.9, 60.0)] == [False, True]


def test_a_changed_or_withdrawn_vote_counts_as_it_stands(ledger: making.Ledger) -> None:
    answer = making.completion(exposure=making.exposed())
    ledger.take(answer, making.thumb(answer, "up"))
    ledger.take(making.thumb(answer, "down", up=False, occurred=2.0))
    [session] = ask(ledger).sessions
    assert (session.votes, session.outcome) == (1, 0.0)
    ledger.take(making.event(feedback.Retraction(), "back", about=answer, supersedes=["up", "down"]))
    [session] = ask(ledger).sessions
    assert (session.votes, session.outcome) == (0, None)


def test_votes_on_another_release_of_the_session_do_not_count(ledger: making.Ledger) -> None:
    own = making.completion("s", 1, exposure=making.exposed())
    other = making.completion("s", 2, exposure=making.exposed(release="other"))
    ledger.take(own, other, making.thumb(other))
    [session] = ask(ledger).sessions
    assert session.votes == 0


def test_totals_are_of_all_completions_whatever_the_stage(ledger: making.Ledger) -> None:
    safety = making.completion("one", exposure=making.exposed(stage="safety"), texts=["a", "b"])
    pinned = making.completion("two", exposure=making.exposed(randomised=False))
    stable = making.completion("three", exposure=making.exposed(arm=STABLE))
    ledger.take(safety, stable, making.thumb(safety), making.thumb(safety, "g", choice=1, up=False))
    ledger.take(pinned, pinned)
    assert ask(ledger).totals == (
        core_ledger.ArmTotals(CANDIDATE, 2, 9, 2, 1.0, 0.5),
        core_ledger.ArmTotals(STABLE, 1, 3, 0, 0.0, 0.5),
    )


def test_consumed_offsets_say_what_the_sessions_follow_from(ledger: making.Ledger) -> None:
    answer = making.completion(exposure=making.exposed())
    ledger.take(answer, making.thumb(answer))
    assert {name.split("/")[0]: offset for name, offset in ask(ledger).consumed.items()} == {
        "completions": 1,
        "feedback": 1,
    }


def test_another_tenant_sees_nothing(ledger: making.Ledger) -> None:
    ledger.take(making.completion(exposure=making.exposed()))
    found = ask(ledger, tenant="other")
    assert (found.sessions, found.totals) == ((), ())


@pytest.mark.parametrize("maturity_s", [-1.0, float("nan")])
def test_a_window_that_is_none_is_refused(ledger: making.Ledger, maturity_s: float) -> None:
    with pytest.raises(errors.InvalidField, match="`maturity_s`"):
        ask(ledger, maturity_s=maturity_s)
