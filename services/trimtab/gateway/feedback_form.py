"""The body of `POST /v1/feedback`, read into a feedback event.

Called by `gateway.routes`. Whether the completion is genuine and the event acceptable is the feedback service's to say.
"""

import datetime
from typing import Any

from trimtab.core import clock, errors, feedback, text
from trimtab.gateway import fields, openai

_UP = frozenset({"up", "true", "1"})
_DOWN = frozenset({"down", "false", "0", "-1"})
_LATER = frozenset({"rating", "ranking", "edit", "demonstration", "critique", "signal", "retraction"})
_UINT32_MAX = 2**32 - 1


def read_feedback(body: fields.Fields, idempotency_key: str, now: clock.Clock) -> feedback.FeedbackEvent:
    """The event; without `kind` it is a thumb, without `id` the Idempotency-Key is its id, without a time it is now."""
    kind = body.text("kind") or "thumb"
    completion_id = body.text("completion_id")
    choice = body.integer("choice", 0, _UINT32_MAX) or 0
    said: feedback.Kind
    if kind == "thumb":
        said = feedback.Thumb(_ref(completion_id, choice, "completion_id"), up=_is_up(body.take("value")))
    elif kind == "comparison":
        said = _comparison(body, completion_id)
    elif kind in _LATER:
        raise errors.NotBuiltYet(f"Feedback of kind `{kind}`")
    else:
        raise errors.InvalidField("kind", f"is {kind[:40]!r}", "send thumb or comparison")
    event = feedback.FeedbackEvent(
        id=body.text("id") or idempotency_key,
        occurred_at=_occurred_at(body.take("occurred_at"), now),
        kind=said,
        rater=_rater(body.take("rater")),
        surface=body.text("surface"),
        criterion=body.text("criterion"),
        supersedes=tuple(fields.as_text(item, "supersedes") for item in body.items("supersedes")),
    )
    openai.refuse_left(body)
    return event


def _ref(completion_id: str, choice: int, where: str) -> text.ResponseRef:
    if not completion_id:
        raise errors.InvalidField(where, "is missing", "send the `id` of a chat completion unchanged")
    return text.ResponseRef(completion_id, choice)


def _comparison(body: fields.Fields, completion_id: str) -> feedback.Comparison:
    return feedback.Comparison(
        preferred=_side(body, "preferred", completion_id),
        rejected=_side(body, "rejected", completion_id),
        strength=body.number("strength", 0, 1),
        tie=body.flag("tie") or False,
    )


def _side(body: fields.Fields, name: str, completion_id: str) -> text.ResponseRef:
    """`{"completion_id", "choice"}`; the event's own completion where the side names none."""
    side = body.table(name)
    if side is None:
        raise errors.InvalidField(name, "is missing", 'send {"completion_id": …, "choice": …}')
    ref = _ref(
        side.text("completion_id") or completion_id,
        side.integer("choice", 0, _UINT32_MAX) or 0,
        f"{name}.completion_id",
    )
    openai.refuse_left(side)
    return ref


def _is_up(value: Any) -> bool:
    spelled = str(value).lower()
    if spelled in _UP:
        return True
    if spelled in _DOWN:
        return False
    raise errors.InvalidField("value", "is no thumb", 'send "up" or "down"')


def _rater(value: Any) -> feedback.Rater:
    """An id, or `{"kind", "id"}`; nothing means the session itself."""
    if value is None:
        return feedback.Rater()
    if isinstance(value, str):
        return feedback.Rater(id=fields.as_text(value, "rater"))
    rater = fields.as_fields(value, "rater")
    kind = rater.text("kind") or feedback.RaterKind.USER.value
    if kind not in set(feedback.RaterKind):
        raise errors.InvalidField("rater.kind", f"is {kind[:40]!r}", f"send one of {', '.join(feedback.RaterKind)}")
    made = feedback.Rater(feedback.RaterKind(kind), rater.text("id"))
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
