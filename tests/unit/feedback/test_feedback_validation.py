"""What an event must be: each rule by its field, before anything is written."""

import datetime
import uuid

import pytest

from trimtab.core import completions, errors, feedback, ids, text
from trimtab.feedback import acknowledged, placing, validation

NOW = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
RING = ids.KeyRing(keys={1: b"k" * 32}, current=1)
HASH_KEY = b"h" * 32
REF, SAID = text.ResponseRef("c"), text.Text("said")
PROMPT = (text.Message(text.Role.USER, text.Text("How?")),)
FOR_LINE = text.Context("acme", "support")


def completion_id(session: bytes = b"s" * 16, tenant: str = "acme", *, kept: bool = True) -> str:
    token = ids.CompletionToken(ids.uuid7(), session, b"r" * 8, completions.Arm.STABLE, randomised=True, kept=kept)
    return ids.mint(token, tenant, RING)


def place(kind: feedback.Kind, tenant: str = "acme") -> tuple[bytes, bool]:
    return placing.place(kind, tenant, RING, HASH_KEY)


def event(kind: feedback.Kind | None = None, **given: object) -> feedback.FeedbackEvent:
    thumb = feedback.Thumb(text.ResponseRef("c"), up=True)
    return feedback.FeedbackEvent(**({"id": "f1", "occurred_at": NOW, "kind": kind or thumb} | given))  # type: ignore[arg-type]


def ranking(*ranks: int) -> feedback.Ranking:
    return feedback.Ranking(tuple(feedback.RankedResponse(text.ResponseRef("c", i), r) for i, r in enumerate(ranks)))


def long_prompt() -> tuple[text.Message, ...]:
    return tuple(text.Message(text.Role.USER, text.Text("x" * 65_536)) for _ in range(3))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (event(id="x" * 129), "id"),
        (event(id="naïve"), "id"),
        (event(id="a\nb"), "id"),
        (event(surface="s" * 65), "surface"),
        (event(criterion="a\x00"), "criterion"),
        (event(rater=feedback.Rater(id="ann@example.org")), "rater.id"),
        (event(rater=feedback.Rater(network="192.0.2.7")), "rater.network"),
        (event(occurred_at=NOW + datetime.timedelta(minutes=6)), "occurred_at"),
        (event(feedback.Thumb(text.ResponseRef("c", 128), up=True)), "choice"),
        (event(feedback.Comparison(text.ResponseRef("a"), text.ResponseRef("b"), 0.0)), "strength"),
        (event(feedback.Comparison(text.ResponseRef("a"), text.ResponseRef("b"), float("nan"))), "strength"),
        (event(feedback.Comparison(text.ResponseRef("a"), text.ResponseRef("b"), 0.5, tie=True)), "strength"),
        (event(feedback.Rating(REF, 4, 1)), "scale"),
        (event(feedback.Rating(REF, 4, 101)), "scale"),
        (event(feedback.Rating(REF, 0, 5)), "stars"),
        (event(feedback.Rating(REF, 6, 5)), "stars"),
        (event(ranking(1)), "items"),
        (event(ranking(*range(1, 34))), "items"),
        (event(ranking(1, 0)), "items[1].rank"),
        (event(feedback.Edit(REF, text.Text(" \n"))), "corrected"),
        (event(feedback.Edit(REF, text.Text("x" * 65_537))), "corrected"),
        (event(feedback.Demonstration(PROMPT, SAID)), "context.line"),
        (event(feedback.Demonstration((), SAID), context=FOR_LINE), "prompt"),
        (event(feedback.Demonstration(PROMPT, text.Text("")), context=FOR_LINE), "response"),
        (event(feedback.Demonstration(long_prompt(), SAID), context=FOR_LINE), "prompt"),
        (event(feedback.Critique(REF, text.Text(""))), "comment"),
        (event(feedback.Critique(REF, SAID, feedback.Span(3, 3))), "span"),
        (event(feedback.Critique(REF, SAID, feedback.Span(5, 3))), "span"),
        (event(feedback.Retraction("", "c")), "supersedes"),
        (event(feedback.Retraction(), supersedes=("f0",)), "completion_id"),
        (event(feedback.Retraction("", "c", PROMPT), supersedes=("f0",)), "prompt"),
        (event(feedback.Retraction("r" * 1001, "c"), supersedes=("f0",)), "reason"),
        (event(supersedes=("f0", "")), "supersedes"),
        (event(supersedes=("f1",)), "supersedes"),
        (event(supersedes=tuple(f"f0{number}" for number in range(17))), "supersedes"),
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
    "right",
    [
        event(feedback.Rating(REF, 2, 2)),
        event(feedback.Rating(REF, 1, 100)),
        event(ranking(1, 1, 7)),
        event(ranking(*range(1, 33))),
        event(feedback.Edit(REF, text.Text("x" * 65_536))),
        event(feedback.Demonstration(PROMPT, SAID), context=FOR_LINE),
        event(feedback.Critique(REF, SAID)),
        event(feedback.Critique(REF, SAID, feedback.Span(0, 1))),
        event(feedback.Signal(REF, feedback.SignalKind.COPY)),
        event(feedback.Retraction("a slip", "c"), supersedes=("f0",)),
        event(feedback.Retraction(prompt=PROMPT), supersedes=("f0",)),
        event(supersedes=tuple(f"f0{number}" for number in range(16))),
    ],
)
def test_every_kind_is_taken(right: feedback.FeedbackEvent) -> None:
    validation.check_event(right, NOW)


def test_a_genuine_id_places_the_event_in_its_session() -> None:
    placed = place(feedback.Thumb(text.ResponseRef(completion_id()), up=True))
    assert placed == (b"s" * 16, True)


@pytest.mark.parametrize(
    "spoil", [str.swapcase, lambda i: i[:-1], lambda i: i + "A", lambda i: "chatcmpl-abc", lambda i: ""]
)
def test_an_id_that_was_changed_is_forged(spoil: object) -> None:
    with pytest.raises(errors.ForgedCompletionId):
        place(feedback.Thumb(text.ResponseRef(spoil(completion_id())), up=True))  # type: ignore[operator]


def test_a_foreign_tenants_id_is_as_good_as_forged() -> None:
    with pytest.raises(errors.ForgedCompletionId):
        place(feedback.Thumb(text.ResponseRef(completion_id()), up=True), "rival")


def test_a_bare_uuid_is_taken_unverified() -> None:
    bare = uuid.uuid4()
    assert place(feedback.Thumb(text.ResponseRef(str(bare)), up=True)) == (bare.bytes, False)
    with pytest.raises(errors.ForgedCompletionId):
        place(feedback.Thumb(text.ResponseRef(str(bare).upper()), up=True))


def test_an_answer_is_not_compared_with_itself() -> None:
    same = completion_id()
    token = ids.verify(same, "acme", RING)
    for other in (same, str(token.uuid)):
        with pytest.raises(errors.InvalidField) as refused:
            place(feedback.Comparison(text.ResponseRef(same), text.ResponseRef(other)))
        assert refused.value.field == "rejected"
    pair = feedback.Comparison(text.ResponseRef(same, 0), text.ResponseRef(same, 1))
    assert place(pair) == (b"s" * 16, True)


def test_answers_of_two_sessions_are_not_compared() -> None:
    pair = feedback.Comparison(text.ResponseRef(completion_id()), text.ResponseRef(completion_id(b"t" * 16)))
    with pytest.raises(errors.InvalidField, match="session"):
        place(pair)


def test_an_answer_is_ranked_once_and_beside_answers_of_its_session_only() -> None:
    one, other = completion_id(), completion_id(b"t" * 16)

    def ranked(*refs: text.ResponseRef) -> feedback.Ranking:
        return feedback.Ranking(tuple(feedback.RankedResponse(ref, rank) for rank, ref in enumerate(refs, start=1)))

    assert place(ranked(text.ResponseRef(one), text.ResponseRef(one, 1))) == (b"s" * 16, True)
    for wrong in ((text.ResponseRef(one), text.ResponseRef(one)), (text.ResponseRef(one), text.ResponseRef(other))):
        with pytest.raises(errors.InvalidField) as refused:
            place(ranked(*wrong))
        assert refused.value.field == "items"


def test_a_retraction_goes_where_what_it_takes_back_is() -> None:
    said_of = completion_id()
    assert place(feedback.Retraction("", said_of)) == place(feedback.Thumb(text.ResponseRef(said_of, 1), up=True))
    demonstrated = place(feedback.Demonstration(PROMPT, SAID))
    assert place(feedback.Retraction(prompt=PROMPT)) == demonstrated
    assert demonstrated != place(feedback.Demonstration(PROMPT, SAID), "rival")
    assert demonstrated[1]


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


def test_of_an_answer_that_is_not_kept_no_words_are_either() -> None:
    private = text.ResponseRef(completion_id(kept=False))
    kept = text.ResponseRef(completion_id())
    for kind in (feedback.Edit(private, SAID), feedback.Thumb(private, up=True), feedback.Comparison(kept, private)):
        with pytest.raises(errors.InvalidField, match=r"`completion_id` .*`store: false`"):
            place(kind)
