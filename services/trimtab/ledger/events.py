"""A feedback event as the ledger received it: where it stood, what it is about, and what makes it itself.

`store.feedback` makes these from records; `joining` folds them.
"""

import dataclasses
import math
import uuid
from typing import Any

from trimtab.core import errors, feedback, text
from trimtab.ledger import answers


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """One answer, by what verified ids and bare UUIDs have in common."""

    uuid: uuid.UUID
    choice: int


@dataclasses.dataclass(frozen=True, slots=True)
class Received:
    """A distinct event. `key` is its row; (partition, offset) is where its first copy stood in topic `feedback`.

    subject: the UUID it is filed under, the least of its targets'; of an event about no answer, the session. With
    tenant and id it is the event's identity (`core.feedback.identity`).
    """

    key: int
    event: feedback.FeedbackEvent
    partition: int
    offset: int
    digest: bytes
    targets: tuple[Target, ...]
    subject: bytes

    @property
    def context(self) -> text.Context:
        if self.event.context is None:
            raise errors.MalformedRecord("The event has no `context`; the feedback service fills it.")
        return self.event.context

    @property
    def tenant(self) -> str:
        return self.context.tenant

    @property
    def order(self) -> tuple[bool, int, int]:
        """First counts. A signed id comes before a bare UUID: only those of one kind share a partition."""
        return not self.event.verified, self.partition, self.offset

    @property
    def recency(self) -> tuple[Any, ...]:
        """What decides between two heads of a chain."""
        return self.event.occurred_at, self.event.id, self.order


def receive(event: feedback.FeedbackEvent, *, partition: int, offset: int, key: int = 0) -> Received:
    """An event of the log; MalformedRecord when it names no tenant or an id that can be none."""
    try:
        targets = tuple(Target(answers.uuid_of(ref.completion_id), ref.choice) for ref in feedback.targets(event.kind))
    except errors.ForgedCompletionId as problem:
        raise errors.MalformedRecord(f"It is about no completion: {problem}") from problem
    session = event.context.session_hash if event.context else b""
    subject = min((target.uuid.bytes for target in targets), default=session)
    received = Received(key, event, partition, offset, _body_digest(event), targets, subject)
    if not received.tenant:
        raise errors.MalformedRecord("Its `context.tenant` is empty.")
    if not received.targets and not received.context.session_hash:
        raise errors.MalformedRecord("It is about no completion and of no session.")
    if isinstance(event.kind, feedback.Comparison) and not math.isfinite(event.kind.strength or 0.0):
        raise errors.MalformedRecord(f"Its `strength` is {event.kind.strength}: no number.")
    if isinstance(event.kind, feedback.Rating) and not 1 <= event.kind.stars <= event.kind.scale > 1:
        raise errors.MalformedRecord(f"It gives {event.kind.stars} of {event.kind.scale} stars.")
    return received


def _body_digest(event: feedback.FeedbackEvent) -> bytes:
    """The body, the same under whichever spelling of a completion's id it was sent."""
    return feedback.body_digest(dataclasses.replace(event, kind=_spelled_once(event.kind)))


def _spelled_once(kind: feedback.Kind) -> feedback.Kind:
    match kind:
        case feedback.Thumb() | feedback.Rating() | feedback.Edit() | feedback.Critique() | feedback.Signal():
            return dataclasses.replace(kind, target=_ref(kind.target))
        case feedback.Comparison():
            return dataclasses.replace(kind, preferred=_ref(kind.preferred), rejected=_ref(kind.rejected))
        case feedback.Ranking():
            items = tuple(dataclasses.replace(item, target=_ref(item.target)) for item in kind.items)
            return dataclasses.replace(kind, items=items)
        case feedback.Retraction():
            [target] = feedback.targets(kind) or [None]
            return dataclasses.replace(kind, completion_id=_ref(target).completion_id) if target else kind
        case feedback.Demonstration():
            return kind


def _ref(ref: text.ResponseRef) -> text.ResponseRef:
    return text.ResponseRef(answers.uuid_of(ref.completion_id).hex, ref.choice)
