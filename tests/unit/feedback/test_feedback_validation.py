"""What an event must be: each rule by its field, before anything is written."""

import datetime
import uuid

import pytest

from trimtab.core import completions, errors, feedback, ids, text
from trimtab.feedback import acknowledged, validation

NOW = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
RING = ids.KeyRing(keys={1: b"k" * 32}, current=1)


def completion_id(session: bytes = b"s" * 16, tenant: str = "acme") -> str:
    token = ids.CompletionToken(ids.uuid7(), session, b"r" * 8, completions.Arm.STABLE, randomised=True)
    return ids.mint(token, tenant, RING)


def event(kind: feedback.Kind | None = None, **given: object) -> feedback.FeedbackEvent:
    thumb = feedback.Thumb(text.ResponseRef("c"), up=True)
    return feedback.FeedbackEvent(**({"id": "f1", "occurred_at": NOW, "kind": kind or thumb} | given))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (event(id="x" * 129), "id"),
        (event(id="naïve"), "id"),
        (event(id="a\nb"), "id"),
        (event(surface="s" * 65), "surface"),
        (event(criterion="a\x00"), "criterion"),
        (event(rater=feedback.Rater(id="ann@example.org")), "rater.id"),
        (event(occurred_at=NOW + datetime.timedelta(minutes=6)), "occurred_at"),
        (event(feedback.Thumb(text.ResponseRef("c", 128), up=True)), "choice"),
        (event(feedback.Comparison(text.ResponseRef("a"), text.ResponseRef("b"), 0.0)), "strength"),
        (event(feedback.Comparison(text.ResponseRef("a"), text.ResponseRef("b"), float("nan"))), "strength"),
        (event(context=text.Context("acme", "l" * 65)), "context.line"),
        (event(context=text.Context("acme", "", subject_hash=b"short")), "context.subject_hash"),
    ],
)
def test_a_broken_rule_names_its_field(wrong: feedback.FeedbackEvent, field: str) -> None:
    with pytest.raises(errors.InvalidField) as refused:
        validation.check_event(wrong, NOW)
    assert refused.value.field == field


def test_clocks_may_differ_a_little() -> None:
    validation.check_event(event(occurred_at=NOW + datetime.timedelta(minutes=4)), NOW)


@pytest.mark.parametrize(
    "kind",
    [
        feedback.Rating(text.ResponseRef("c"), 4, 5),
        feedback.Ranking(()),
        feedback.Edit(text.ResponseRef("c"), text.Text("better")),
        feedback.Demonstration((), text.Text("so")),
        feedback.Critique(text.ResponseRef("c"), text.Text("too long")),
        feedback.Signal(text.ResponseRef("c"), feedback.SignalKind.COPY),
        feedback.Retraction(),
    ],
)
def test_kinds_of_later_stages_say_that_they_are_not_built(kind: feedback.Kind) -> None:
    with pytest.raises(errors.NotBuiltYet):
        validation.check_event(event(kind), NOW)


def test_an_amendment_is_not_built() -> None:
    with pytest.raises(errors.NotBuiltYet, match="supersedes"):
        validation.check_event(event(supersedes=("f0",)), NOW)


def test_a_genuine_id_places_the_event_in_its_session() -> None:
    placed = validation.place(feedback.Thumb(text.ResponseRef(completion_id()), up=True), "acme", RING)
    assert placed == (b"s" * 16, True)


@pytest.mark.parametrize(
    "spoil", [str.swapcase, lambda i: i[:-1], lambda i: i + "A", lambda i: "chatcmpl-abc", lambda i: ""]
)
def test_an_id_that_was_changed_is_forged(spoil: object) -> None:
    with pytest.raises(errors.ForgedCompletionId):
        validation.place(feedback.Thumb(text.ResponseRef(spoil(completion_id())), up=True), "acme", RING)  # type: ignore[operator]


def test_a_foreign_tenants_id_is_as_good_as_forged() -> None:
    with pytest.raises(errors.ForgedCompletionId):
        validation.place(feedback.Thumb(text.ResponseRef(completion_id()), up=True), "rival", RING)


def test_a_bare_uuid_is_taken_unverified() -> None:
    bare = uuid.uuid4()
    assert validation.place(feedback.Thumb(text.ResponseRef(str(bare)), up=True), "acme", RING) == (bare.bytes, False)
    with pytest.raises(errors.ForgedCompletionId):
        validation.place(feedback.Thumb(text.ResponseRef(str(bare).upper()), up=True), "acme", RING)


def test_an_answer_is_not_compared_with_itself() -> None:
    same = completion_id()
    token = ids.verify(same, "acme", RING)
    for other in (same, str(token.uuid)):
        with pytest.raises(errors.InvalidField) as refused:
            validation.place(feedback.Comparison(text.ResponseRef(same), text.ResponseRef(other)), "acme", RING)
        assert refused.value.field == "rejected"
    pair = feedback.Comparison(text.ResponseRef(same, 0), text.ResponseRef(same, 1))
    assert validation.place(pair, "acme", RING) == (b"s" * 16, True)


def test_answers_of_two_sessions_are_not_compared() -> None:
    pair = feedback.Comparison(text.ResponseRef(completion_id()), text.ResponseRef(completion_id(b"t" * 16)))
    with pytest.raises(errors.InvalidField, match="session"):
        validation.place(pair, "acme", RING)


@pytest.mark.parametrize(
    ("body", "problem"),
    [("", "empty"), (" \n", "empty"), ("é" * 32_769, "65538 bytes"), (text.Ciphertext(b"x", "k"), "sealed")],
)
def test_texts_are_there_in_the_clear_and_not_too_long(body: str | text.Ciphertext, problem: str) -> None:
    with pytest.raises(errors.InvalidField, match=problem) as refused:
        validation.check_text("preferred", text.Text(body))
    assert refused.value.field == "preferred"
    assert validation.check_text("preferred", text.Text("é" * 32_768))


def test_the_index_of_acknowledged_events_is_bounded_and_forgets_the_oldest() -> None:
    index = acknowledged.Acknowledged(2)
    index.add(("c", "1"), b"a")
    index.add(("c", "2"), b"b")
    assert index.look(("c", "1"), b"a") is acknowledged.Seen.SAME
    index.add(("c", "3"), b"c")
    assert index.look(("c", "2"), b"b") is acknowledged.Seen.NEVER
    assert index.look(("c", "1"), b"x") is acknowledged.Seen.OTHER
