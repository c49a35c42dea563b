"""What people say about answers: one event type, nine kinds."""

import dataclasses
import datetime
import enum
import hashlib

from trimtab.core import errors, text


class RaterKind(enum.StrEnum):
    USER = "user"
    ANNOTATOR = "annotator"
    MODEL = "model"


@dataclasses.dataclass(frozen=True, slots=True)
class Rater:
    """id: keyed hash, hex; empty means the session itself.

    network: keyed hash, hex, of the /24 (IPv4) or /48 (IPv6) that the rater's address lies in; empty when nobody said.
    Where something was said from is no part of what was said: `body_digest` does not know it.
    """

    kind: RaterKind = RaterKind.USER
    id: str = ""
    network: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Thumb:
    target: text.ResponseRef
    up: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Rating:
    target: text.ResponseRef
    stars: int
    scale: int


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """strength: how much better, in (0, 1]; None when the rater was not asked."""

    preferred: text.ResponseRef
    rejected: text.ResponseRef
    strength: float | None = None
    tie: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class RankedResponse:
    target: text.ResponseRef
    rank: int


@dataclasses.dataclass(frozen=True, slots=True)
class Ranking:
    items: tuple[RankedResponse, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Edit:
    target: text.ResponseRef
    corrected: text.Text


@dataclasses.dataclass(frozen=True, slots=True)
class Demonstration:
    """Its session is its prompt's; the event's `context.line` says for which line."""

    prompt: tuple[text.Message, ...]
    response: text.Text


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """Characters, end exclusive."""

    start: int
    end: int


@dataclasses.dataclass(frozen=True, slots=True)
class Critique:
    target: text.ResponseRef
    comment: text.Text
    span: Span | None = None


class SignalKind(enum.StrEnum):
    COPY = "copy"
    REGENERATE = "regenerate"
    ACCEPT = "accept"
    ABANDON = "abandon"


@dataclasses.dataclass(frozen=True, slots=True)
class Signal:
    target: text.ResponseRef
    signal: SignalKind


@dataclasses.dataclass(frozen=True, slots=True)
class Retraction:
    """completion_id: one that what is taken back is about. prompt: of a demonstration instead; read, never written."""

    reason: str = ""
    completion_id: str = ""
    prompt: tuple[text.Message, ...] = ()


Kind = Thumb | Rating | Comparison | Ranking | Edit | Demonstration | Critique | Signal | Retraction


@dataclasses.dataclass(frozen=True, slots=True)
class FeedbackEvent:
    """The record on topic `feedback`. An amendment is an event whose `supersedes` is not empty.

    `context` and `verified` are filled by the feedback service from the completion id. read_from: ids of feedback on
    the same completion that this was made of, e.g. the critiques that a model read as a thumb.
    """

    id: str
    occurred_at: datetime.datetime
    kind: Kind
    context: text.Context | None = None
    rater: Rater = dataclasses.field(default_factory=Rater)
    surface: str = ""
    criterion: str = ""
    supersedes: tuple[str, ...] = ()
    verified: bool = False
    read_from: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class SendRequest:
    tenant: str
    event: FeedbackEvent


@dataclasses.dataclass(frozen=True, slots=True)
class SendResponse:
    feedback_id: str
    duplicate: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """An error's reason, sentence and details (`core.errors`)."""

    reason: str
    message: str
    details: dict[str, str] = dataclasses.field(default_factory=dict)


def refusal_of(problem: errors.TrimtabError) -> Refusal:
    """What a batch says of an item in place of raising this."""
    return Refusal(errors.reason_of(type(problem)), str(problem), dict(problem.details))


@dataclasses.dataclass(frozen=True, slots=True)
class SendBatchRequest:
    items: tuple[SendRequest, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class SendBatchResult:
    outcome: SendResponse | Refusal


@dataclasses.dataclass(frozen=True, slots=True)
class SendBatchResponse:
    results: tuple[SendBatchResult, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ImportedPreference:
    """A preference between two texts from elsewhere; `item` identifies them in their source.

    tie: no preference. feedback_id: of the verdict; empty: it follows from source, item, rater and criterion.
    """

    prompt: tuple[text.Message, ...]
    preferred: text.Text
    rejected: text.Text
    item: str
    tie: bool = False
    feedback_id: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ImportPreferencesRequest:
    """actor: of an operator's import, an act with this reason; empty: of an app's. request_id: the same for every
    request of one act; empty: an act of its own. rater: who compared; annotators of whom nothing else is known, unless
    named."""

    tenant: str
    line: str
    source: str
    items: tuple[ImportedPreference, ...]
    actor: str = ""
    reason: str = ""
    request_id: str = ""
    rater: Rater = Rater(RaterKind.ANNOTATOR)
    criterion: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ImportRefusal:
    item: str
    refusal: Refusal


@dataclasses.dataclass(frozen=True, slots=True)
class ImportPreferencesResponse:
    accepted: int
    duplicates: int
    refused: tuple[ImportRefusal, ...] = ()


def targets(kind: Kind) -> tuple[text.ResponseRef, ...]:
    """The answers an event is about, in the order the kind names them."""
    match kind:
        case Thumb() | Rating() | Edit() | Critique() | Signal():
            return (kind.target,)
        case Comparison():
            return (kind.preferred, kind.rejected)
        case Ranking():
            return tuple(item.target for item in kind.items)
        case Retraction():
            return (text.ResponseRef(kind.completion_id),) if kind.completion_id else ()
        case Demonstration():
            return ()


def identity(event: FeedbackEvent) -> tuple[str, str]:
    """What makes two events copies of one: the completion id (the smallest of several) and the feedback id.

    The smallest, so that a comparison sent again with its sides swapped meets the first one and shows as a conflict.
    An event about no completion goes by its session.
    """
    session = event.context.session_hash.hex() if event.context else ""
    return min((target.completion_id for target in targets(event.kind)), default=session), event.id


def body_digest(event: FeedbackEvent) -> bytes:
    """sha256 of what the rater said. The same for every copy of an event, whoever filled in its time and context."""
    line = event.context.line if event.context and not targets(event.kind) else ""
    body = (_in_order(event.kind), event.rater, event.surface, event.criterion, event.supersedes, line)
    said = (*body, event.read_from) if event.read_from else body
    return hashlib.sha256(repr(said).encode()).digest()


def _in_order(kind: Kind) -> Kind:
    """The kind with answers whose order says nothing in an order of their own."""
    match kind:
        case Comparison(tie=True):
            first, second = sorted((kind.preferred, kind.rejected), key=_place)
            return dataclasses.replace(kind, preferred=first, rejected=second)
        case Ranking():
            return Ranking(tuple(sorted(kind.items, key=lambda item: (item.rank, *_place(item.target)))))
        case _:
            return kind


def _place(ref: text.ResponseRef) -> tuple[str, int]:
    return ref.completion_id, ref.choice
