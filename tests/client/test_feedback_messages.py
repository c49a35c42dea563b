"""Every kind of feedback is said in the protocol's words, with an id that the client has chosen."""

import datetime
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import json_format
from tests.client import conftest

import trimtab_client
from trimtab_client import errors

Give = Callable[[Any], Any]
FIRST, SECOND = (trimtab_client.Choice("chatcmpl-2", index, "So.", "stop") for index in (0, 1))
ONE = trimtab_client.Answer("chatcmpl-1", "p", (trimtab_client.Choice("chatcmpl-1", 0, "So.", "stop"),), 5, 4)
TWO = trimtab_client.Answer("chatcmpl-2", "p", (FIRST, SECOND), 5, 8)
KINDS: dict[str, tuple[Give, dict[str, Any]]] = {
    "a thumb on an answer": (
        lambda feedback: feedback.thumb(ONE, up=True),
        {"thumb": {"target": {"completion_id": "chatcmpl-1"}, "up": True}},
    ),
    "a thumb on a choice": (
        lambda feedback: feedback.thumb(SECOND, up=False),
        {"thumb": {"target": {"completion_id": "chatcmpl-2", "choice": 1}}},
    ),
    "a thumb by id": (
        lambda feedback: feedback.thumb("chatcmpl-3", up=False),
        {"thumb": {"target": {"completion_id": "chatcmpl-3"}}},
    ),
    "a thumb by id and index": (
        lambda feedback: feedback.thumb(("chatcmpl-3", 4), up=True),
        {"thumb": {"target": {"completion_id": "chatcmpl-3", "choice": 4}, "up": True}},
    ),
    "stars": (
        lambda feedback: feedback.rate(ONE, stars=4),
        {"rating": {"target": {"completion_id": "chatcmpl-1"}, "stars": 4, "scale": 5}},
    ),
    "points": (
        lambda feedback: feedback.rate(ONE, stars=7, scale=10),
        {"rating": {"target": {"completion_id": "chatcmpl-1"}, "stars": 7, "scale": 10}},
    ),
    "a comparison": (
        lambda feedback: feedback.compare(SECOND, FIRST),
        {
            "comparison": {
                "preferred": {"completion_id": "chatcmpl-2", "choice": 1},
                "rejected": {"completion_id": "chatcmpl-2"},
            }
        },
    ),
    "a comparison with its strength": (
        lambda feedback: feedback.compare(ONE, FIRST, strength=0.5),
        {
            "comparison": {
                "preferred": {"completion_id": "chatcmpl-1"},
                "rejected": {"completion_id": "chatcmpl-2"},
                "strength": 0.5,
            }
        },
    ),
    "a tie": (
        lambda feedback: feedback.compare(ONE, FIRST, tie=True),
        {
            "comparison": {
                "preferred": {"completion_id": "chatcmpl-1"},
                "rejected": {"completion_id": "chatcmpl-2"},
                "tie": True,
            }
        },
    ),
    "a ranking with a tie": (
        lambda feedback: feedback.rank([SECOND, [ONE, ("chatcmpl-4", 2)], "chatcmpl-3"]),
        {
            "ranking": {
                "items": [
                    {"target": {"completion_id": "chatcmpl-2", "choice": 1}, "rank": 1},
                    {"target": {"completion_id": "chatcmpl-1"}, "rank": 2},
                    {"target": {"completion_id": "chatcmpl-4", "choice": 2}, "rank": 2},
                    {"target": {"completion_id": "chatcmpl-3"}, "rank": 3},
                ]
            }
        },
    ),
    "a tie of two answers in a tuple": (
        lambda feedback: feedback.rank([(FIRST, SECOND), ("chatcmpl-4", 2)]),
        {
            "ranking": {
                "items": [
                    {"target": {"completion_id": "chatcmpl-2"}, "rank": 1},
                    {"target": {"completion_id": "chatcmpl-2", "choice": 1}, "rank": 1},
                    {"target": {"completion_id": "chatcmpl-4", "choice": 2}, "rank": 2},
                ]
            }
        },
    ),
    "an edit": (
        lambda feedback: feedback.edit(ONE, "Press Start."),
        {"edit": {"target": {"completion_id": "chatcmpl-1"}, "corrected": {"plain": "Press Start."}}},
    ),
    "a demonstration": (
        lambda feedback: feedback.demonstrate("How?", "Press Start."),
        {
            "context": {"line": "support"},
            "demonstration": {
                "prompt": [{"role": "ROLE_USER", "content": {"plain": "How?"}}],
                "response": {"plain": "Press Start."},
            },
        },
    ),
    "a critique": (
        lambda feedback: feedback.critique(ONE, "Too long."),
        {"critique": {"target": {"completion_id": "chatcmpl-1"}, "comment": {"plain": "Too long."}}},
    ),
    "a critique of a part": (
        lambda feedback: feedback.critique(ONE, "Wrong.", span=(0, 2)),
        {
            "critique": {
                "target": {"completion_id": "chatcmpl-1"},
                "comment": {"plain": "Wrong."},
                "span": {"end": 2},
            }
        },
    ),
    "a copy": (
        lambda feedback: feedback.signal(ONE, "copy"),
        {"signal": {"target": {"completion_id": "chatcmpl-1"}, "signal": "SIGNAL_KIND_COPY"}},
    ),
    "an abandonment": (
        lambda feedback: feedback.signal(ONE, "abandon"),
        {"signal": {"target": {"completion_id": "chatcmpl-1"}, "signal": "SIGNAL_KIND_ABANDON"}},
    ),
    "an amendment": (
        lambda feedback: feedback.thumb(ONE, up=True, supersedes=trimtab_client.Receipt("f-1")),
        {"supersedes": ["f-1"], "thumb": {"target": {"completion_id": "chatcmpl-1"}, "up": True}},
    ),
    "an amendment of two": (
        lambda feedback: feedback.rate(ONE, stars=1, supersedes=[trimtab_client.Receipt("f-1"), "f-2"]),
        {
            "supersedes": ["f-1", "f-2"],
            "rating": {"target": {"completion_id": "chatcmpl-1"}, "stars": 1, "scale": 5},
        },
    ),
    "a retraction": (
        lambda feedback: feedback.retract(trimtab_client.Receipt("f-1", "chatcmpl-1"), reason="Wrong button."),
        {"supersedes": ["f-1"], "retraction": {"completion_id": "chatcmpl-1", "reason": "Wrong button."}},
    ),
}


def _sent(app: conftest.App) -> dict[str, Any]:
    [request] = app.votes.attempts
    assert request.tenant == ""
    return dict(json_format.MessageToDict(request.event, preserving_proto_field_name=True))


@pytest.mark.parametrize("name", KINDS)
async def test_every_kind_is_said_in_the_protocols_words(app: conftest.App, name: str) -> None:
    give, expected = KINDS[name]
    receipt = await app.call(lambda client: give(client.feedback))
    sent = _sent(app)
    assert str(uuid.UUID(receipt.id)) == receipt.id == sent.pop("id")
    assert not receipt.duplicate
    assert sent == {"rater": {"kind": "RATER_KIND_USER"}} | expected


ABOUT: dict[str, tuple[Give, str]] = {
    "an answer": (lambda feedback: feedback.critique(ONE, "Long."), "chatcmpl-1"),
    "two answers": (lambda feedback: feedback.compare(SECOND, ONE), "chatcmpl-2"),
    "many answers": (lambda feedback: feedback.rank([["chatcmpl-4", ONE], SECOND]), "chatcmpl-4"),
    "feedback on an answer": (
        lambda feedback: feedback.retract(trimtab_client.Receipt("f", "chatcmpl-5")),
        "chatcmpl-5",
    ),
}


@pytest.mark.parametrize("name", ABOUT)
async def test_a_receipt_is_all_that_taking_back_needs(app: conftest.App, name: str) -> None:
    give, answer_id = ABOUT[name]
    receipt = await app.call(lambda client: give(client.feedback))
    assert receipt == trimtab_client.Receipt(receipt.id, answer_id)
    await app.call(lambda client: client.feedback.retract(receipt))
    taken_back = app.votes.attempts[-1].event
    assert (list(taken_back.supersedes), taken_back.retraction.completion_id) == ([receipt.id], answer_id)


async def test_a_demonstration_is_taken_back_by_what_it_answers(app: conftest.App) -> None:
    receipt = await app.call(lambda client: client.feedback.demonstrate("How?", "Press Start."))
    assert receipt == trimtab_client.Receipt(receipt.id, messages=({"role": "user", "content": "How?"},))
    await app.call(lambda client: client.feedback.retract(receipt))
    given, taken_back = (attempt.event for attempt in app.votes.attempts)
    assert list(taken_back.retraction.prompt) == list(given.demonstration.prompt) != []
    assert (list(taken_back.supersedes), taken_back.context.line) == ([receipt.id], "support")


def test_there_is_a_method_for_every_kind_of_the_protocol() -> None:
    from trimtabapi.feedback.v1 import feedback_pb2

    kinds = {field.name for field in feedback_pb2.FeedbackEvent.DESCRIPTOR.oneofs_by_name["kind"].fields}
    assert {kind for _, expected in KINDS.values() for kind in expected if kind in kinds} == kinds


async def test_everything_that_may_be_said_beside_it_is_said(app: conftest.App) -> None:
    moment = datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    details: Any = {
        "id": "click-7",
        "rater": "ann",
        "rater_kind": "annotator",
        "network": "192.0.2.7",
        "surface": "chat",
        "criterion": "helpful",
        "occurred_at": moment,
    }
    assert (await app.call(lambda client: client.feedback.thumb(ONE, up=True, **details))).id == "click-7"
    assert _sent(app) == {
        "id": "click-7",
        "occurred_at": "2026-05-01T10:00:00Z",
        "rater": {"kind": "RATER_KIND_ANNOTATOR", "id": "ann", "network": "192.0.2.7"},
        "surface": "chat",
        "criterion": "helpful",
        "thumb": {"target": {"completion_id": "chatcmpl-1"}, "up": True},
    }


REFUSED: dict[str, tuple[Give, str]] = {
    "an answer of which one choice must be meant": (lambda feedback: feedback.thumb(TWO, up=True), "answer"),
    "no id": (lambda feedback: feedback.thumb(7, up=True), "completion_id"),
    "a choice below 0": (lambda feedback: feedback.thumb(("chatcmpl-1", -1), up=True), "choice"),
    "no thumb": (lambda feedback: feedback.thumb(ONE, up="sideways"), "up"),
    "stars below 0": (lambda feedback: feedback.rate(ONE, stars=-1), "stars"),
    "half a character": (lambda feedback: feedback.edit(ONE, "\ud800"), "corrected"),
    "a response that is no text": (lambda feedback: feedback.demonstrate("How?", 7), "response"),
    "a role that does not exist": (
        lambda feedback: feedback.demonstrate([{"role": "robot", "content": "7"}], "So."),
        "messages[0].role",
    ),
    "a span that ends nowhere": (lambda feedback: feedback.critique(ONE, "No.", span=(0, -1)), "span"),
    "a ranking of nothing that is an answer": (lambda feedback: feedback.rank([[7]]), "completion_id"),
    "a signal that does not exist": (lambda feedback: feedback.signal(ONE, "shrug"), "signal"),
    "a rater of another kind": (lambda feedback: feedback.thumb(ONE, up=True, rater_kind="dog"), "rater_kind"),
    "a time without its zone": (
        lambda feedback: feedback.thumb(ONE, up=True, occurred_at=datetime.datetime(2026, 5, 1)),
        "occurred_at",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_sent_is_named_before_anything_is_sent(app: conftest.App, name: str) -> None:
    give, field = REFUSED[name]
    with pytest.raises(errors.InvalidField) as caught:
        await app.call(lambda client: give(client.feedback))
    assert caught.value.field == field
    assert app.votes.attempts == []
