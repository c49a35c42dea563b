"""What an event must be to be taken in. Pure: nothing here reads a log or a clock, and nothing is written.

Called by `feedback.intake`; texts and names also by `feedback.imports`.
"""

import datetime
import uuid

from trimtab.core import errors, feedback, ids, text

MAX_ID = 128
MAX_NAME = 64
MAX_CHOICE = 127
MAX_TEXT_BYTES = 64 * 1024
MAX_AHEAD = datetime.timedelta(minutes=5)
_HEX = frozenset("0123456789abcdef")
_KIND_NAMES = {
    feedback.Rating: "Feedback of kind `rating`",
    feedback.Ranking: "Feedback of kind `ranking`",
    feedback.Edit: "Feedback of kind `edit`",
    feedback.Demonstration: "Feedback of kind `demonstration`",
    feedback.Critique: "Feedback of kind `critique`",
    feedback.Signal: "Feedback of kind `signal`",
    feedback.Retraction: "Feedback of kind `retraction`",
}


def check_event(event: feedback.FeedbackEvent, now: datetime.datetime) -> None:
    """The rules that need no key: InvalidField names the first field that breaks one, NotBuiltYet a later kind."""
    _check_built(event)
    if event.id:
        check_id("id", event.id)
    check_name("surface", event.surface)
    check_name("criterion", event.criterion)
    if event.rater.id and not (len(event.rater.id) == 32 and _HEX.issuperset(event.rater.id)):
        raise errors.InvalidField(
            "rater.id", "is not a keyed hash", "send feedback through the gateway, which hashes it"
        )
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
    if isinstance(event.kind, feedback.Comparison):
        check_strength(event.kind.strength)


def _check_built(event: feedback.FeedbackEvent) -> None:
    later = _KIND_NAMES.get(type(event.kind))
    if later is not None:
        raise errors.NotBuiltYet(later)
    if event.supersedes:
        raise errors.NotBuiltYet("`supersedes` (an amendment)")


def check_id(field: str, value: str) -> None:
    if not (1 <= len(value) <= MAX_ID and value.isascii() and value.isprintable()):
        raise errors.InvalidField(field, "is no usable id", f"send 1 to {MAX_ID} printable ASCII characters")


def check_name(field: str, value: str) -> None:
    if len(value) > MAX_NAME or not value.isprintable():
        raise errors.InvalidField(field, "is no usable name", f"send at most {MAX_NAME} printable characters")


def check_strength(strength: float | None) -> None:
    if strength is not None and not 0 < strength <= 1:
        raise errors.InvalidField("strength", f"is {strength}", "send a number above 0 and at most 1, or leave it out")


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


class Target:
    """One completion id of an event, judged: genuine and the tenant's, or a bare UUID that the join will judge."""

    __slots__ = ("session_hash", "uuid", "verified")

    def __init__(self, completion_id: str, tenant: str, ring: ids.KeyRing) -> None:
        bare = _bare_uuid(completion_id)
        if bare is None:
            token = ids.verify(completion_id, tenant, ring)
            self.uuid, self.session_hash, self.verified = token.uuid, token.session_hash, True
        else:
            self.uuid, self.session_hash, self.verified = bare, bare.bytes, False


def _bare_uuid(completion_id: str) -> uuid.UUID | None:
    """The UUID when this is one in its canonical spelling, as other gateways give out."""
    if len(completion_id) != 36:
        return None
    try:
        parsed = uuid.UUID(completion_id)
    except ValueError:
        return None
    return parsed if str(parsed) == completion_id else None


def place(kind: feedback.Kind, tenant: str, ring: ids.KeyRing) -> tuple[bytes, bool]:
    """(session hash, verified) of an event. ForgedCompletionId, or InvalidField for sides that cannot be compared."""
    refs = feedback.targets(kind)
    targets = [Target(ref.completion_id, tenant, ring) for ref in refs]
    answers = {(target.uuid, ref.choice) for target, ref in zip(targets, refs, strict=True)}
    if len(answers) < len(targets):
        raise errors.InvalidField("rejected", "is the same answer as `preferred`", "compare two different answers")
    signed = {target.session_hash for target in targets if target.verified}
    if len(signed) > 1:
        raise errors.InvalidField(
            "rejected.completion_id", "belongs to another session than `preferred`", "compare answers of one session"
        )
    session_hash = next(iter(signed)) if signed else min(target.session_hash for target in targets)
    return session_hash, all(target.verified for target in targets)
