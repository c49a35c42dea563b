"""What the HTTP door reads as feedback."""

import datetime
from typing import Any

import pytest

from trimtab.core import errors, feedback, text
from trimtab.gateway import feedback_form, fields

NOW = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)


def read(key: str = "", **body: Any) -> feedback.FeedbackEvent:
    return feedback_form.read_feedback(fields.Fields(body), key, lambda: NOW)


@pytest.mark.parametrize(
    ("value", "up"), [("up", True), (True, True), (1, True), ("down", False), (False, False), (0, False), (-1, False)]
)
def test_the_short_form_is_a_thumb_given_now(value: Any, up: bool) -> None:
    event = read(completion_id="chatcmpl-x", value=value)
    assert event == feedback.FeedbackEvent("", NOW, feedback.Thumb(text.ResponseRef("chatcmpl-x"), up))


def test_a_comparison_names_two_choices_of_one_or_of_two_completions() -> None:
    one = read(kind="comparison", completion_id="c", preferred={"choice": 1}, rejected={}, strength=0.5)
    assert one.kind == feedback.Comparison(text.ResponseRef("c", 1), text.ResponseRef("c", 0), 0.5)
    two = read(kind="comparison", preferred={"completion_id": "a"}, rejected={"completion_id": "b"}, tie=True)
    assert two.kind == feedback.Comparison(text.ResponseRef("a"), text.ResponseRef("b"), tie=True)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"kind": "rating", "choice": 1, "stars": 4, "scale": 5}, feedback.Rating(text.ResponseRef("c", 1), 4, 5)),
        (
            {
                "kind": "ranking",
                "items": [{"rank": 2}, {"rank": 1, "choice": 1}, {"rank": 2, "completion_id": "d"}],
            },
            feedback.Ranking(
                (
                    feedback.RankedResponse(text.ResponseRef("c"), 2),
                    feedback.RankedResponse(text.ResponseRef("c", 1), 1),
                    feedback.RankedResponse(text.ResponseRef("d"), 2),
                )
            ),
        ),
        ({"kind": "edit", "corrected": "So."}, feedback.Edit(text.ResponseRef("c"), text.Text("So."))),
        ({"kind": "critique", "comment": "Long."}, feedback.Critique(text.ResponseRef("c"), text.Text("Long."))),
        (
            {"kind": "critique", "comment": "Long.", "span": {"start": 0, "end": 4}},
            feedback.Critique(text.ResponseRef("c"), text.Text("Long."), feedback.Span(0, 4)),
        ),
        (
            {"kind": "signal", "signal": "regenerate"},
            feedback.Signal(text.ResponseRef("c"), feedback.SignalKind.REGENERATE),
        ),
        (
            {"kind": "retraction", "supersedes": ["f0"], "reason": "a slip"},
            feedback.Retraction("a slip", completion_id="c"),
        ),
    ],
)
def test_each_kind_about_an_answer(body: dict[str, Any], kind: feedback.Kind) -> None:
    event = read(completion_id="c", **body)
    assert event.kind == kind
    assert event.context is None


def test_a_demonstration_and_its_retraction_name_line_and_prompt() -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How?"}]
    prompt = tuple(text.Message(text.Role(turn["role"]), text.Text(turn["content"])) for turn in turns)
    shown = read(kind="demonstration", model="support", prompt=turns, response="So.")
    assert shown.kind == feedback.Demonstration(prompt, text.Text("So."))
    assert shown.context == text.Context("", "support")
    back = read(kind="retraction", model="support", prompt=turns, supersedes=["f0"])
    assert (back.kind, back.context) == (feedback.Retraction(prompt=prompt), shown.context)
    assert read(kind="demonstration", model="support", prompt="How?", response="So.").kind == feedback.Demonstration(
        prompt[1:], text.Text("So.")
    )


def test_everything_else_arrives_as_sent() -> None:
    event = read(
        completion_id="c",
        choice=2,
        value="up",
        id="f1",
        rater={"kind": "annotator", "id": "ann", "network": "192.0.2.7"},
        surface="chat",
        criterion="helpful",
        occurred_at="2026-04-30T02:00:00+02:00",
    )
    assert event == feedback.FeedbackEvent(
        id="f1",
        occurred_at=datetime.datetime(2026, 4, 30, tzinfo=datetime.UTC),
        kind=feedback.Thumb(text.ResponseRef("c", 2), True),
        rater=feedback.Rater(feedback.RaterKind.ANNOTATOR, "ann", "192.0.2.7"),
        surface="chat",
        criterion="helpful",
    )
    assert read(completion_id="c", value="up", rater="bob").rater == feedback.Rater(feedback.RaterKind.USER, "bob")


def test_the_idempotency_key_is_the_id_when_the_body_has_none() -> None:
    assert read("key", completion_id="c", value="up").id == "key"
    assert read("key", completion_id="c", value="up", id="own").id == "own"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"value": "up"}, "completion_id"),
        ({"completion_id": "c"}, "value"),
        ({"completion_id": "c", "value": "meh"}, "value"),
        ({"completion_id": "c", "value": "up", "choice": -1}, "choice"),
        ({"completion_id": "c", "value": "up", "kind": "wave"}, "kind"),
        ({"kind": "comparison", "completion_id": "c", "preferred": {}}, "rejected"),
        ({"kind": "comparison", "preferred": {}, "rejected": {}}, "preferred.completion_id"),
        ({"kind": "comparison", "completion_id": "c", "preferred": {}, "rejected": {}, "strength": 2}, "strength"),
        ({"completion_id": "c", "value": "up", "occurred_at": "yesterday"}, "occurred_at"),
        ({"completion_id": "c", "value": "up", "occurred_at": "2026-01-01T00:00:00"}, "occurred_at"),
        ({"completion_id": "c", "value": "up", "occurred_at": 1e30}, "occurred_at"),
        ({"completion_id": "c", "value": "up", "rater": {"kind": "crowd"}}, "rater.kind"),
        ({"completion_id": "\ud800", "value": "up"}, "completion_id"),
        ({"kind": "rating", "completion_id": "c", "scale": 5}, "stars"),
        ({"kind": "rating", "completion_id": "c", "stars": 4}, "scale"),
        ({"kind": "rating", "completion_id": "c", "stars": 4.5, "scale": 5}, "stars"),
        ({"kind": "ranking", "completion_id": "c", "items": [{}]}, "items[0].rank"),
        ({"kind": "ranking", "items": [{"rank": 1}]}, "items[0].completion_id"),
        ({"kind": "ranking", "completion_id": "c", "items": [3]}, "items[0]"),
        ({"kind": "signal", "completion_id": "c", "signal": "blink"}, "signal"),
        ({"kind": "critique", "completion_id": "c", "comment": "x", "span": {"start": 1}}, "span.end"),
        ({"kind": "demonstration", "prompt": "How?", "response": "So."}, "model"),
        ({"kind": "demonstration", "model": "m", "prompt": 7, "response": "So."}, "prompt"),
        ({"kind": "demonstration", "model": "m", "prompt": [{"role": "x"}], "response": "So."}, "prompt[0].role"),
        ({"kind": "retraction", "supersedes": ["f0"]}, "completion_id"),
        ({"kind": "retraction", "supersedes": ["f0"], "prompt": "How?"}, "model"),
    ],
)
def test_a_wrong_field_is_named(body: dict[str, Any], field: str) -> None:
    with pytest.raises(errors.InvalidField) as refused:
        read(**body)
    assert refused.value.field == field


def test_a_field_nobody_knows_is_refused() -> None:
    with pytest.raises(errors.UnsupportedParameter) as refused:
        read(completion_id="c", value="up", mood="good")
    assert refused.value.field == "mood"
    for stray in ({"model": "support"}, {"choice": 1}):
        with pytest.raises(errors.UnsupportedParameter):
            read(completion_id="c", kind="retraction", supersedes=["f0"], **stray)
