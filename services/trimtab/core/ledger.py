"""Questions to the ledger and its answers."""

import dataclasses
import datetime
import enum
import itertools
from collections.abc import Iterator, Sequence

from trimtab.core import audit, completions, examples, feedback, lines, models, releases, text

# Answers have fields named like these modules, and a class body would look its annotations up among its fields.
_Completion = completions.Completion
_Example = examples.Example
_PublishedModel = models.PublishedModel
_Release = releases.Release


class FeedbackStatus(enum.StrEnum):
    WAITING = "waiting"
    JOINED = "joined"
    SUPERSEDED = "superseded"
    CONFLICT = "conflict"
    REJECTED = "rejected"
    UNJOINABLE = "unjoinable"


@dataclasses.dataclass(frozen=True, slots=True)
class TracedFeedback:
    event: feedback.FeedbackEvent
    status: FeedbackStatus
    reason: str = ""
    copies: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class DatasetMembership:
    """disposition: "trained", "held out", "rejected" or "quarantined"."""

    example_id: str
    dataset_id: str
    disposition: str
    reason: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class TraceRequest:
    tenant: str
    id: str


@dataclasses.dataclass(frozen=True, slots=True)
class TraceResponse:
    completions: tuple[_Completion, ...] = ()
    feedback: tuple[TracedFeedback, ...] = ()
    examples: tuple[_Example, ...] = ()
    datasets: tuple[DatasetMembership, ...] = ()
    models: tuple[_PublishedModel, ...] = ()
    releases: tuple[_Release, ...] = ()
    quarantined_by: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class LineageRequest:
    tenant: str
    model_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class LineageResponse:
    model: _PublishedModel
    ancestors: tuple[_PublishedModel, ...] = ()
    descendants: tuple[_PublishedModel, ...] = ()
    releases: tuple[_Release, ...] = ()
    trained_examples: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class EvidenceRequest:
    """rater_sessions, network_sessions: in how many sessions their votes count (`core.caps`); 0 or inf: in all."""

    tenant: str
    release_id: str
    maturity_s: float
    rater_sessions: float = 0.0
    network_sessions: float = 0.0


def evidence_request(release: _Release, terms: lines.ReleaseConfig) -> EvidenceRequest:
    """What a release's verdict is computed from, by the terms it is judged by."""
    return EvidenceRequest(
        tenant=release.context.tenant,
        release_id=release.id,
        maturity_s=terms.maturity_s,
        rater_sessions=terms.rater_sessions,
        network_sessions=terms.network_sessions,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class FirstAnswer:
    """What the policy measured of the answer that was a session's first exposure. Times are seconds.

    reward: by the release's reward model; None while, or because, it is unscored.
    """

    latency_s: float
    tokens: float
    refused: float
    repeats: float
    failed: bool
    reward: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class SessionOutcome:
    """One session by its first randomised exposure, in the stage of that; outcome: mean vote in [0, 1].

    first: None where the policy measured nothing. votes: those that count; capped: those that do not, because of who
    cast them (`core.caps`); late: those cast after the maturity window. segment: that of its first exposure.
    """

    arm: completions.Arm
    propensity: float
    exposed_at: datetime.datetime
    votes: int
    mature: bool
    outcome: float | None = None
    stage: str = "evidence"
    first: FirstAnswer | None = None
    capped: int = 0
    segment: str = ""
    late: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class ArmTotals:
    """votes: thumbs and stars that count; vote_sum: their sum, each in [0, 1]."""

    arm: completions.Arm
    completions: int
    completion_tokens: int
    votes: int
    vote_sum: float
    mean_latency_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class EvidenceResponse:
    """sessions: in order of first exposure; totals: all completions of the release, whatever the stage.

    at: the moment that decided which sessions are mature.
    """

    sessions: tuple[SessionOutcome, ...] = ()
    totals: tuple[ArmTotals, ...] = ()
    consumed: dict[str, int] = dataclasses.field(default_factory=dict)
    at: datetime.datetime | None = None


def in_parts(found: EvidenceResponse, sessions: int) -> Iterator[EvidenceResponse]:
    """The same in messages of at most so many sessions; everything else is in the first."""
    yield dataclasses.replace(found, sessions=found.sessions[:sessions])
    for begin in range(sessions, len(found.sessions), sessions):
        yield EvidenceResponse(sessions=found.sessions[begin : begin + sessions])


def in_one(parts: Sequence[EvidenceResponse]) -> EvidenceResponse:
    """What was sent in parts, of which there is at least one."""
    return dataclasses.replace(parts[0], sessions=tuple(itertools.chain.from_iterable(part.sessions for part in parts)))


@dataclasses.dataclass(frozen=True, slots=True)
class UnscoredRequest:
    """limit: at most so many, 1 or more."""

    tenant: str
    release_id: str
    limit: int


@dataclasses.dataclass(frozen=True, slots=True)
class UnscoredAnswer:
    """A session's first answer under a release: the text of its first choice, and what it answers."""

    completion_id: str
    session_hash: bytes
    prompt: tuple[text.Message, ...]
    response: text.Text


@dataclasses.dataclass(frozen=True, slots=True)
class UnscoredResponse:
    """Oldest first."""

    answers: tuple[UnscoredAnswer, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class CountsRequest:
    tenant: str
    line: str


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyVotes:
    """Thumbs and stars on a policy's answers; vote_sum: their sum, each in [0, 1]."""

    policy_id: str
    votes: int
    vote_sum: float


@dataclasses.dataclass(frozen=True, slots=True)
class CountsResponse:
    """feedback = distinct ids = waiting + unjoinable + joined + superseded + conflicts + rejected; duplicates are
    dropped copies. unjoinable: what has waited so long that its answer is taken to be lost.

    dispositions: by an example's last use, or "quarantined" while it is in quarantine.
    """

    completions: int = 0
    feedback: int = 0
    waiting: int = 0
    joined: int = 0
    superseded: int = 0
    conflicts: int = 0
    rejected: int = 0
    duplicates: int = 0
    examples: int = 0
    rejected_by_reason: dict[str, int] = dataclasses.field(default_factory=dict)
    dispositions: dict[str, int] = dataclasses.field(default_factory=dict)
    consumed: dict[str, int] = dataclasses.field(default_factory=dict)
    votes: tuple[PolicyVotes, ...] = ()
    unjoinable: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class ListQuarantinesRequest:
    tenant: str
    line: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """A release that ended "worse"; examples: of its data window, released or not."""

    release: _Release
    examples: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class ListQuarantinesResponse:
    entries: tuple[QuarantineEntry, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class ListAuditRequest:
    """limit: at most so many; 0 means all."""

    tenant: str
    line: str = ""
    limit: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class ListAuditResponse:
    records: tuple[audit.AuditRecord, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class AcquireLeaseRequest:
    name: str
    holder: str
    ttl_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class AcquireLeaseResponse:
    held: bool
    generation: int
    holder: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ReleaseLeaseRequest:
    name: str
    holder: str
