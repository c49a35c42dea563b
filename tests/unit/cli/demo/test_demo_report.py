"""The demo's last page: its interval, its books, its tables."""

import dataclasses
import datetime
import json

import pytest

from trimtab.cli import show
from trimtab.cli.demo import acts, report, taste, users
from trimtab.core import ledger, releases, text

State = releases.ReleaseState

# Approval .6898546, .0820140 and .2141830, by the formula of the taste.
GOOD = taste.Judgement(right=True, wrong=False, courteous=False, flattery=0, words=4)
POOR = taste.Judgement(right=False, wrong=False, courteous=False, flattery=2, words=10)
NOTHING = taste.Judgement(right=False, wrong=False, courteous=False, flattery=0, words=4)
BALANCED = ledger.CountsResponse(
    feedback=9,
    joined=9,
    dispositions={"trained": 6, "held out": 2, "rejected": 1},
    rejected_by_reason={"too many of one rater": 1},
)


def measured(name: str, judgements: list[taste.Judgement], kl_to_anchor: float | None = None) -> report.Measured:
    """One answer to each question."""
    return report.Measured(name, [[judgement] for judgement in judgements], kl_to_anchor)


def books(sent: int = 9, acknowledged: int = 9) -> users.Books:
    return users.Books(sent=sent, taken={str(vote) for vote in range(acknowledged)})


def release(
    state: releases.ReleaseState, reason: str, verdict: releases.Verdict = releases.Verdict.UNDECIDED
) -> releases.Release:
    now = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
    return releases.Release(
        id="r",
        context=text.Context("demo", "support"),
        revision=1,
        candidate_id="c" * 64,
        stable_id="",
        anchor_id="",
        state=state,
        salt=b"",
        created_at=now,
        history=(releases.Transition(state, now, reason, "rollout"),) if reason else (),
        evidence=releases.Evidence(verdict=verdict),
    )


def test_the_gain_and_its_interval_are_those_computed_by_hand() -> None:
    # differences 0, .4756716, .4756716, 0: mean .2378358, half width 1.959964 * .2746291 / 2
    before = measured("before", [GOOD, NOTHING, NOTHING, NOTHING])
    after = measured("after", [GOOD, GOOD, GOOD, NOTHING])
    assert report.gain(before, after) == pytest.approx((0.2378358, -0.0312958, 0.5069673), abs=1e-6)
    assert report.gain(after, before) == pytest.approx((-0.2378358, -0.5069673, 0.0312958), abs=1e-6)


def test_answers_to_one_question_are_no_more_evidence_than_one() -> None:
    def asked(*answers: taste.Judgement, times: int) -> report.Measured:
        return report.Measured("", [[answer] * times for answer in answers], None)

    once, twice = ((asked(NOTHING, GOOD, POOR, times=n), asked(GOOD, GOOD, GOOD, times=n)) for n in (1, 2))
    assert report.gain(*once) == pytest.approx(report.gain(*twice))
    assert once[0].row()[1] == twice[0].row()[1]
    assert (once[0].row()[-1], twice[0].row()[-1]) == ("3", "6")


def test_policies_that_were_asked_different_questions_are_not_compared() -> None:
    with pytest.raises(ValueError, match="shorter"):
        report.gain(measured("before", [GOOD, NOTHING]), measured("after", [GOOD]))


def test_more_questions_make_the_interval_narrower() -> None:
    def width(times: int) -> float:
        before, after = measured("before", [GOOD, NOTHING] * times), measured("after", [GOOD, GOOD] * times)
        _, low, high = report.gain(before, after)
        return high - low

    assert width(400) == pytest.approx(width(100) / 2, rel=0.02)


def test_a_policys_row_says_approval_shares_length_and_number() -> None:
    row = measured("first", [GOOD, GOOD, POOR, NOTHING], 3.14).row()
    assert row[0] == "first"
    assert row[1].startswith("0.419 (")  # (2 * .6898546 + .0820140 + .2141830) / 4
    assert row[2:] == ("3.1", "5.5", "50%", "0%", "25%", "4")
    assert measured("unjudged", [GOOD, GOOD]).row()[2] == ""


def test_the_books_hold_when_every_vote_sent_was_used() -> None:
    balance = report.Balance(books(), BALANCED)
    assert balance.used == 9
    assert balance.holds


@pytest.mark.parametrize(
    ("kept", "counted"),
    [
        (books(sent=10), BALANCED),
        (books(acknowledged=8), BALANCED),
        (books(sent=10, acknowledged=10), BALANCED),
        (books(), dataclasses.replace(BALANCED, joined=8)),
        (books(), dataclasses.replace(BALANCED, feedback=10)),
        (books(), dataclasses.replace(BALANCED, dispositions={"trained": 6, "held out": 2})),
        (books(), dataclasses.replace(BALANCED, dispositions={"trained": 7, "held out": 2, "rejected": 1})),
        (books(), dataclasses.replace(BALANCED, dispositions={})),
    ],
)
def test_the_books_do_not_hold_when_any_vote_is_lost_or_counted_twice(
    kept: users.Books, counted: ledger.CountsResponse
) -> None:
    assert not report.Balance(kept, counted).holds


def test_the_page_shows_policies_releases_books_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    screen = show.Screen()
    screen.times.update({"users vote": 12.4, "training": 30.0})
    report.show_policies(screen, [measured("first policy (SFT)", [GOOD, POOR], 0.0)])
    report.show_releases(
        screen,
        [release(releases.ReleaseState.ROLLED_BACK, "worse by 0.3"), release(releases.ReleaseState.PENDING, "")],
    )
    report.show_balance(screen, report.Balance(books(), BALANCED))
    report.show_times(screen)
    said = capsys.readouterr().out
    for words in ("first policy (SFT)", "rolled back", "worse by 0.3", "pending", "they balance", "total"):
        assert words in said
    rows = {line.rpartition(" ")[0].strip(): line.split()[-1] for line in said.splitlines() if line.strip()}
    assert rows["sent by users"] == rows["acknowledged"] == rows["joined with their completions"] == "9"
    assert (rows["trained"], rows["held out"], rows["too many of one rater"]) == ("6", "2", "1")
    assert "42 s" in said


def test_books_that_do_not_balance_are_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    report.show_balance(show.Screen(), report.Balance(books(sent=10), BALANCED))
    assert "they do not balance" in capsys.readouterr().out


def test_the_page_for_programs_says_the_same() -> None:
    screen = show.Screen()
    screen.times["training"] = 30.04
    document = report.document(
        screen,
        [measured("first", [GOOD, NOTHING], 2.5)],
        [release(releases.ReleaseState.PROMOTED, "better")],
        report.Balance(books(), BALANCED),
    )
    assert json.loads(json.dumps(document)) == document
    [policy] = document["policies"]
    assert (policy["name"], policy["answers"], policy["kl_to_anchor"], policy["words"]) == ("first", 2, 2.5, 4.0)
    assert policy["approval"] == pytest.approx(0.4520188, abs=1e-6)
    assert policy["low"] < policy["approval"] < policy["high"]
    assert document["releases"] == [{"policy": "c" * 64, "state": "promoted", "because": "better"}]
    assert document["books"]["balance"] is True
    assert (document["books"]["sent by users"], document["books"]["held out"]) == (9, 2)
    assert document["seconds"] == {"training": 30.0}


BETTER = release(State.PROMOTED, "better", releases.Verdict.BETTER)
WORSE = dataclasses.replace(release(State.ROLLED_BACK, "worse", releases.Verdict.WORSE), forced_reason="marketing")


def outcome(**changes: object) -> acts.Outcome:
    """A demo in which everything happened as it should."""
    worse, good, best = (
        measured("worse", [NOTHING] * 90), measured("good", [GOOD, NOTHING] * 45), measured("best", [GOOD] * 90)
    )  # fmt: skip
    whole = acts.Outcome(
        learned=(worse, good, best),
        idle=best,
        planted=worse,
        promoted=(BETTER, BETTER),
        unproven=release(State.NOT_PROVEN, "no difference", releases.Verdict.NOT_PROVEN),
        refused=release(State.FAILED, "win rate"),
        forced=WORSE,
    )
    return dataclasses.replace(whole, **changes)  # type: ignore[arg-type]


def test_the_demo_held_when_both_rounds_were_promoted_one_was_not_proven_and_one_rolled_back() -> None:
    whole = outcome()
    assert (whole.act_one, whole.nothing_new, whole.act_two) == (True, True, True)
    assert [policy.name for policy in whole.policies] == ["worse", "good", "best", "best", "worse"]


@pytest.mark.parametrize("state", [State.NOT_PROVEN, State.ROLLED_BACK, State.FAILED])
def test_a_round_that_was_not_promoted_is_no_success(state: State) -> None:
    for rounds in ((release(state, "no"), BETTER), (BETTER, release(state, "no")), (BETTER,), ()):
        assert not outcome(promoted=rounds).act_one


def test_what_an_operator_did_is_not_what_votes_did() -> None:
    by_hand = release(State.PROMOTED, "an operator promoted it")
    assert not outcome(promoted=(BETTER, by_hand)).act_one
    assert not outcome(unproven=release(State.NOT_PROVEN, "an operator ended it")).nothing_new
    undone = dataclasses.replace(release(State.ROLLED_BACK, "an operator undid it"), forced_reason="marketing")
    assert not outcome(forced=undone).act_two


def test_a_promotion_that_the_held_out_questions_do_not_bear_out_is_no_success() -> None:
    worse, good, best = outcome().learned
    assert not outcome(learned=(worse, good, good)).act_one
    assert not outcome(learned=(worse, worse, best)).act_one


def test_what_changes_nothing_must_end_as_not_proven_and_the_planted_policy_as_rolled_back() -> None:
    assert not outcome(unproven=BETTER).nothing_new
    unforced = dataclasses.replace(WORSE, forced_reason="")
    for changes in ({"refused": BETTER}, {"forced": BETTER}, {"forced": unforced}):
        assert not outcome(**changes).act_two
