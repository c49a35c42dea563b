"""The body of `POST /v1/feedback`, read into a feedback event.

Called by `gateway.routes`. Whether the completion is genuine and the event acceptable is the feedback service's to say.
"""

import datetime
from collections.abc import Callable, Mapping
from typing import Any

from trimtab.core import clock, errors, feedback, text
from trimtab.gateway import fields, openai

_UP = frozenset({"up", "true", "1"})
_DOWN = frozenset({"down", "false", "0", "-1"})
_UINT32_MAX = 2**32 - 1


def read_feedback(body: fields.Fields, idempotency_key: str, now: clock.Clock) -> feedback.FeedbackEvent:
    """The event; without `kind` it is a thumb, without `id` the Idempotency-Key is its id, without a time it is now."""
    kind = body.text("kind") or "thumb"
    if kind not in _KINDS:
        raise errors.InvalidField("kind", f"is {kind[:40]!r}", f"send one of {', '.join(_KINDS)}")
    said = _KINDS[kind](body)
    event = feedback.FeedbackEvent(
        id=body.text("id") or idempotency_key,
        occurred_at=_occurred_at(body.take("occurred_at"), now),
        kind=said,
        context=_context(said, body),
        rater=_rater(body.take("rater")),
        surface=body.text("surface"),
        criterion=body.text("criterion"),
        supersedes=tuple(fields.as_text(item, "supersedes") for item in body.items("supersedes")),
    )
    openai.refuse_left(body)
    return event


def _context(said: feedback.Kind, body: fields.Fields) -> text.Context | None:
    """Feedback about an answer belongs to the answer's line; only what is about none has to name its own."""
    if feedback.targets(said):
        return None
    line = body.text("model")
    if not line:
        raise errors.InvalidField("model", "is missing", "name the line that the demonstration is for")
    return text.Context(tenant="", line=line)


def _thumb(body: fields.Fields) -> feedback.Thumb:
    return feedback.Thumb(_target(body), up=_is_up(body.take("value")))


def _rating(body: fields.Fields) -> feedback.Rating:
    return feedback.Rating(_target(body), _needed(body, "stars", "1 to `scale`"), _needed(body, "scale", "2 to 100"))


def _comparison(body: fields.Fields) -> feedback.Comparison:
    completion_id = body.text("completion_id")
    return feedback.Comparison(
        preferred=_side(body, "preferred", completion_id),
        rejected=_side(body, "rejected", completion_id),
        strength=body.number("strength", 0, 1),
        tie=body.flag("tie") or False,
    )


def _ranking(body: fields.Fields) -> feedback.Ranking:
    completion_id = body.text("completion_id")
    items = [fields.as_fields(item, f"items[{number}]") for number, item in enumerate(body.items("items"))]
    return feedback.Ranking(tuple(_ranked(item, completion_id) for item in items))


def _ranked(item: fields.Fields, completion_id: str) -> feedback.RankedResponse:
    rank = _needed(item, "rank", "1 for the best; equal ranks tie")
    return feedback.RankedResponse(_answer(item, completion_id), rank)


def _edit(body: fields.Fields) -> feedback.Edit:
    return feedback.Edit(_target(body), text.Text(body.text("corrected")))


def _demonstration(body: fields.Fields) -> feedback.Demonstration:
    return feedback.Demonstration(_prompt(body), text.Text(body.text("response")))


def _critique(body: fields.Fields) -> feedback.Critique:
    return feedback.Critique(_target(body), text.Text(body.text("comment")), _span(body.table("span")))


def _signal(body: fields.Fields) -> feedback.Signal:
    name = body.text("signal")
    if name not in set(feedback.SignalKind):
        raise errors.InvalidField("signal", f"is {name[:40]!r}", f"send one of {', '.join(feedback.SignalKind)}")
    return feedback.Signal(_target(body), feedback.SignalKind(name))


def _retraction(body: fields.Fields) -> feedback.Retraction:
    prompt = _prompt(body)
    reason = body.text("reason")
    if prompt:
        return feedback.Retraction(reason, prompt=prompt)
    return feedback.Retraction(reason, _ref(body.text("completion_id"), 0, "completion_id").completion_id)


_KINDS: Mapping[str, Callable[[fields.Fields], feedback.Kind]] = {
    "thumb": _thumb,
    "rating": _rating,
    "comparison": _comparison,
    "ranking": _ranking,
    "edit": _edit,
    "demonstration": _demonstration,
    "critique": _critique,
    "signal": _signal,
    "retraction": _retraction,
}


def _target(body: fields.Fields) -> text.ResponseRef:
    completion_id = body.text("completion_id")
    return _ref(completion_id, body.integer("choice", 0, _UINT32_MAX) or 0, "completion_id")


def _ref(completion_id: str, choice: int, where: str) -> text.ResponseRef:
    if not completion_id:
        raise errors.InvalidField(where, "is missing", "send the `id` of a chat completion unchanged")
    return text.ResponseRef(completion_id, choice)


def _side(body: fields.Fields, name: str, completion_id: str) -> text.ResponseRef:
    side = body.table(name)
    if side is None:
        raise errors.InvalidField(name, "is missing", 'send {"completion_id": …, "choice": …}')
    return _answer(side, completion_id)


def _answer(item: fields.Fields, completion_id: str) -> text.ResponseRef:
    """`{"completion_id", "choice"}`; of the event's own completion where it names none."""
    ref = _ref(
        item.text("completion_id") or completion_id,
        item.integer("choice", 0, _UINT32_MAX) or 0,
        item.name("completion_id"),
    )
    openai.refuse_left(item)
    return ref


def _prompt(body: fields.Fields) -> tuple[text.Message, ...]:
    """A conversation as in a chat completion, or a string for one turn of the user."""
    prompt = body.take("prompt")
    if prompt is None:
        return ()
    if isinstance(prompt, str):
        return (text.Message(text.Role.USER, text.Text(fields.as_text(prompt, "prompt"))),)
    if not isinstance(prompt, list):
        raise errors.InvalidField("prompt", "is no conversation", 'send a string or [{"role": …, "content": …}]')
    return openai.read_messages(prompt, "prompt")


def _span(span: fields.Fields | None) -> feedback.Span | None:
    if span is None:
        return None
    unit = "characters of the answer"
    made = feedback.Span(_needed(span, "start", unit, least=0), _needed(span, "end", unit))
    openai.refuse_left(span)
    return made


def _needed(body: fields.Fields, name: str, remedy: str, least: int = 1) -> int:
    value = body.integer(name, least, _UINT32_MAX)
    if value is None:
        raise errors.InvalidField(body.name(name), "is missing", f"send {remedy}")
    return value


def _is_up(value: Any) -> bool:
    spelled = str(value).lower()
    if spelled in _UP:
        return True
    if spelled in _DOWN:
        return False
    raise errors.InvalidField("value", "is no thumb", 'send "up" or "down"')


def _rater(value: Any) -> feedback.Rater:
    """An id, or `{"kind", "id", "network"}`; nothing means the session itself."""
    if value is None:
        return feedback.Rater()
    if isinstance(value, str):
        return feedback.Rater(id=fields.as_text(value, "rater"))
    rater = fields.as_fields(value, "rater")
    kind = rater.text("kind") or feedback.RaterKind.USER.value
    if kind not in set(feedback.RaterKind):
        raise errors.InvalidField("rater.kind", f"is {kind[:40]!r}", f"send one of {', '.join(feedback.RaterKind)}")
    made = feedback.Rater(feedback.RaterKind(kind), rater.text("id"), rater.text("network"))
    openai.refuse_left(rater)
    return made


def _occurred_at(value: Any, now: clock.Clock) -> datetime.datetime:
    """RFC 3339 with a zone, or seconds since 1970."""
    if value is None:
        return now()
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.datetime.fromtimestamp(value, datetime.UTC)
        moment = datetime.datetime.fromisoformat(fields.as_text(value, "occurred_at"))
    except (ValueError, OverflowError, OSError) as problem:
        raise _no_moment() from problem
    if moment.tzinfo is None:
        raise _no_moment()
    return moment.astimezone(datetime.UTC)


def _no_moment() -> errors.InvalidField:
    return errors.InvalidField(
        "occurred_at", "is no moment", "send RFC 3339 with a zone, e.g. 2026-01-31T09:00:00Z, or leave it out"
    )
