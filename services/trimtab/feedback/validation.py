"""What an event must be to be taken in. Pure: nothing here reads a log or a clock, and nothing is written.

Called by `feedback.intake`; texts and names also by `feedback.imports`. Whether ids are genuine, and where an event
belongs, is in `feedback.placing`.
"""

import datetime
from collections.abc import Sequence

from trimtab.core import errors, feedback, text

MAX_ID = 128
MAX_NAME = 64
MAX_CHOICE = 127
MAX_TEXT_BYTES = 64 * 1024
# Prompt and response together: with the ids around them they fit into a record of topic `feedback`.
MAX_DEMONSTRATION_BYTES = 192 * 1024
MAX_REASON = 1000
MAX_SUPERSEDED = 16
MAX_RANKED = 32
MIN_SCALE, MAX_SCALE = 2, 100
MAX_AHEAD = datetime.timedelta(minutes=5)
_HEX = frozenset("0123456789abcdef")


def check_event(event: feedback.FeedbackEvent, now: datetime.datetime) -> None:
    """InvalidField names the first field that breaks a rule."""
    if event.id:
        check_id("id", event.id)
    check_name("surface", event.surface)
    check_name("criterion", event.criterion)
    check_rater(event.rater)
    if event.occurred_at > now + MAX_AHEAD:
        raise errors.InvalidField(
            "occurred_at",
            f"is in the future ({event.occurred_at.isoformat()})",
            "send when it was given, or leave it out",
        )
    if event.context is not None:
        check_name("context.line", event.context.line)
        check_name("context.traceparent", event.context.traceparent)
        if len(event.context.subject_hash) not in {0, 16}:
            raise errors.InvalidField("context.subject_hash", "is not a keyed hash", "send 16 bytes or none")
    for target in feedback.targets(event.kind):
        if target.choice > MAX_CHOICE:
            raise errors.InvalidField("choice", f"is {target.choice}", f"send the index of a choice, 0 to {MAX_CHOICE}")
    _check_superseded(event)
    if len(event.read_from) > MAX_SUPERSEDED:
        raise errors.InvalidField("read_from", f"names {len(event.read_from)} events", f"name at most {MAX_SUPERSEDED}")
    for read in event.read_from:
        check_id("read_from", read)
    _check_kind(event)


def check_rater(rater: feedback.Rater) -> None:
    for field, value in (("rater.id", rater.id), ("rater.network", rater.network)):
        if value and not (len(value) == 32 and _HEX.issuperset(value)):
            remedy = "send feedback through the gateway, which hashes it"
            raise errors.InvalidField(field, "is not a keyed hash", remedy)


def _check_superseded(event: feedback.FeedbackEvent) -> None:
    if len(event.supersedes) > MAX_SUPERSEDED:
        raise errors.InvalidField(
            "supersedes", f"names {len(event.supersedes)} events", f"name at most {MAX_SUPERSEDED} at once"
        )
    for superseded in event.supersedes:
        check_id("supersedes", superseded)
    if event.id and event.id in event.supersedes:
        raise errors.InvalidField("supersedes", "names the event itself", "name the feedback that it replaces")


def _check_kind(event: feedback.FeedbackEvent) -> None:
    """The rules of one kind. Signals and thumbs have none beyond their types."""
    match event.kind:
        case feedback.Rating():
            _check_rating(event.kind)
        case feedback.Comparison():
            _check_comparison(event.kind)
        case feedback.Ranking():
            _check_ranking(event.kind)
        case feedback.Edit(corrected=corrected):
            check_text("corrected", corrected)
        case feedback.Demonstration():
            _check_demonstration(event, event.kind)
        case feedback.Critique():
            _check_critique(event.kind)
        case feedback.Retraction():
            _check_retraction(event, event.kind)


def _check_rating(rating: feedback.Rating) -> None:
    if not MIN_SCALE <= rating.scale <= MAX_SCALE:
        raise errors.InvalidField(
            "scale", f"is {rating.scale}", f"send the most stars one can give, {MIN_SCALE} to {MAX_SCALE}"
        )
    if not 1 <= rating.stars <= rating.scale:
        raise errors.InvalidField("stars", f"is {rating.stars}", f"send 1 to {rating.scale}, its `scale`")


def _check_comparison(comparison: feedback.Comparison) -> None:
    strength = comparison.strength
    if strength is not None and not 0 < strength <= 1:
        raise errors.InvalidField("strength", f"is {strength}", "send a number above 0 and at most 1, or leave it out")
    if strength is not None and comparison.tie:
        raise errors.InvalidField("strength", "is given for a tie", "leave one of `strength` and `tie` out")


def _check_ranking(ranking: feedback.Ranking) -> None:
    if not 2 <= len(ranking.items) <= MAX_RANKED:
        raise errors.InvalidField("items", f"ranks {len(ranking.items)} answers", f"rank 2 to {MAX_RANKED}")
    for position, item in enumerate(ranking.items):
        if item.rank < 1:
            raise errors.InvalidField(f"items[{position}].rank", f"is {item.rank}", "send 1 for the best, then upwards")


def _check_demonstration(event: feedback.FeedbackEvent, demonstration: feedback.Demonstration) -> None:
    if event.context is None or not event.context.line:
        raise errors.InvalidField("context.line", "is missing", "name the line that the demonstration is for")
    said = (*check_prompt("prompt", demonstration.prompt), check_text("response", demonstration.response))
    size = sum(len(part.encode()) for part in said)
    if size > MAX_DEMONSTRATION_BYTES:
        raise errors.InvalidField(
            "prompt", f"and `response` have {size} bytes", f"send at most {MAX_DEMONSTRATION_BYTES} bytes of UTF-8"
        )


def _check_critique(critique: feedback.Critique) -> None:
    check_text("comment", critique.comment)
    if critique.span is not None and not 0 <= critique.span.start < critique.span.end:
        raise errors.InvalidField(
            "span",
            f"goes from {critique.span.start} to {critique.span.end}",
            "send `start` below `end`, in characters of the answer",
        )


def _check_retraction(event: feedback.FeedbackEvent, retraction: feedback.Retraction) -> None:
    if not event.supersedes:
        raise errors.InvalidField("supersedes", "is empty", "name the feedback that is taken back")
    if len(retraction.reason) > MAX_REASON:
        raise errors.InvalidField("reason", "is too long", f"send at most {MAX_REASON} characters")
    if not retraction.completion_id and not retraction.prompt:
        raise errors.InvalidField(
            "completion_id",
            "is missing",
            "send the one that the feedback is about, or for a demonstration its `prompt`",
        )
    if retraction.completion_id and retraction.prompt:
        raise errors.InvalidField("prompt", "is given beside `completion_id`", "send one of the two")
    if retraction.prompt:
        check_prompt("prompt", retraction.prompt)


def check_id(field: str, value: str) -> None:
    if not (1 <= len(value) <= MAX_ID and value.isascii() and value.isprintable()):
        raise errors.InvalidField(field, "is no usable id", f"send 1 to {MAX_ID} printable ASCII characters")


def check_name(field: str, value: str) -> None:
    if len(value) > MAX_NAME or not value.isprintable():
        raise errors.InvalidField(field, "is no usable name", f"send at most {MAX_NAME} printable characters")


def check_prompt(field: str, prompt: Sequence[text.Message]) -> list[str]:
    """The texts of a conversation in which every turn says something."""
    if not prompt:
        raise errors.InvalidField(field, "is empty", "send the conversation that was answered")
    return [check_text(f"{field}[{position}].content", message.content) for position, message in enumerate(prompt)]


def check_text(field: str, value: text.Text) -> str:
    """The text in the clear, when there is some and not too much."""
    if isinstance(value.body, text.Ciphertext):
        raise errors.InvalidField(field, "is sealed", "send it in the clear")
    if not value.body.strip():
        raise errors.InvalidField(field, "is empty", "send text")
    size = len(value.body.encode())
    if size > MAX_TEXT_BYTES:
        raise errors.InvalidField(field, f"has {size} bytes", f"send at most {MAX_TEXT_BYTES} bytes of UTF-8")
    return value.body
