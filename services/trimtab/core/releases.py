"""A release: one candidate against one stable policy, and what became of it."""

import dataclasses
import datetime
import enum
from collections.abc import Iterable

from trimtab.core import completions, lines, text


class ReleaseState(enum.StrEnum):
    PENDING = "pending"
    VERIFYING = "verifying"
    SAFETY = "safety"
    EVIDENCE = "evidence"
    PROMOTING = "promoting"
    PROMOTED = "promoted"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    NOT_PROVEN = "not_proven"
    FAILED = "failed"


FINAL_STATES = frozenset(
    {ReleaseState.PROMOTED, ReleaseState.ROLLED_BACK, ReleaseState.NOT_PROVEN, ReleaseState.FAILED}
)


# Those in which users' answers are evidence.
WATCHED_STATES = frozenset({ReleaseState.SAFETY, ReleaseState.EVIDENCE})


class Verdict(enum.StrEnum):
    UNDECIDED = "undecided"
    BETTER = "better"
    WORSE = "worse"
    NOT_PROVEN = "not_proven"


@dataclasses.dataclass(frozen=True, slots=True)
class ArmTarget:
    """Where one arm's traffic goes; address is host:port, empty until verified; weight in [0, 1]."""

    arm: completions.Arm
    policy_id: str
    address: str = ""
    weight: float = 0.0
    loaded_digest: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ArmEvidence:
    """sessions: first exposed in the evidence stage; voted: of the mature ones, those with a vote."""

    arm: completions.Arm
    sessions: int = 0
    voted: int = 0
    approval: float = 0.0
    completions: int = 0
    mature: int = 0


class Standing(enum.StrEnum):
    UNKNOWN = "unknown"
    FINE = "fine"
    BREACHED = "breached"


@dataclasses.dataclass(frozen=True, slots=True)
class Guardrail:
    """stable, candidate: means over first answers. beyond: how far over the limit, with its confidence sequence."""

    name: str
    stable: float
    candidate: float
    limit: float
    sessions: int
    beyond: float
    lower: float
    upper: float
    standing: Standing


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentArm:
    """sessions: first exposed in the evidence stage; voted: of the mature ones, those with a vote."""

    sessions: int = 0
    voted: int = 0
    approval: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentEvidence:
    """Reported, not tested. segment: empty of sessions that named none.

    others: of how many segments without a row of their own this is; 0: of one.
    """

    segment: str
    stable: SegmentArm
    candidate: SegmentArm
    others: int = 0

    @property
    def label(self) -> str:
        """What a table calls it; no segment has parentheses in its name."""
        return f"({self.others} others)" if self.others else self.segment or "(none named)"


@dataclasses.dataclass(frozen=True, slots=True)
class Evidence:
    """Candidate minus stable, mean outcome per session in [-1, 1], with its confidence sequence.

    consumed, judged_at: the log's offsets and the moment from which the same figures follow again. capped: votes of
    mature sessions that did not count because their raters or networks had voted in as many sessions as count. late:
    votes that did not because they came after `maturity_s`; told, and no part of what makes two verdicts equal.
    """

    arms: tuple[ArmEvidence, ...] = ()
    difference: float = 0.0
    lower: float = -1.0
    upper: float = 1.0
    alpha: float = 0.05
    verdict: Verdict = Verdict.UNDECIDED
    reason: str = ""
    consumed: dict[str, int] = dataclasses.field(default_factory=dict)
    judged_at: datetime.datetime | None = None
    guardrails: tuple[Guardrail, ...] = ()
    capped: int = 0
    segments: tuple[SegmentEvidence, ...] = ()
    late: int = dataclasses.field(default=0, compare=False)

    @property
    def uncounted(self) -> str:
        """Which votes were left out because of who cast them and when, in words; empty where all count."""
        capped = f"{self.capped} votes over the limits of raters and networks did not count" if self.capped else ""
        late = f"{self.late} votes came later than `maturity_s` after a session's first answer and did not count"
        return "; ".join(filter(None, (capped, late if self.late else "")))


@dataclasses.dataclass(frozen=True, slots=True)
class Transition:
    to_state: ReleaseState
    at: datetime.datetime
    reason: str
    actor: str
    from_state: ReleaseState | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Act:
    """Something an operator did to a release. id: the request's; its audit record has the same."""

    id: str
    act: str
    target: str
    actor: str
    reason: str
    at: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Quarantine:
    """What led to a candidate that ended "worse", by votes or reward, and trains nothing until an operator releases it.

    The data window is what `dataset_id` used and `previous_dataset_id` did not; no `dataset_id`: there is none.
    summary: what is quarantined, or why nothing is, in a sentence.
    """

    at: datetime.datetime
    dataset_id: str = ""
    previous_dataset_id: str = ""
    reward_ids: tuple[str, ...] = ()
    released_at: datetime.datetime | None = None
    summary: str = ""

    @property
    def in_force(self) -> bool:
        return self.released_at is None and bool(self.dataset_id or self.reward_ids)


def held_rewards(quarantines: Iterable[Quarantine | None]) -> frozenset[str]:
    """Reward models that nothing may score or learn with. None: a release that has nothing in quarantine."""
    return frozenset(id_ for one in quarantines if one is not None and one.in_force for id_ in one.reward_ids)


@dataclasses.dataclass(frozen=True, slots=True)
class Release:
    """The record on topic `rollouts`. The newest record of a line says how its traffic is routed.

    terms: what it is judged by, fixed when it is made; None in records older than that. reward_id: the reward model
    that scores its first answers, fixed then, too; empty: none does, and its terms guard no reward. waits_for: what
    keeps it from moving on, in a sentence, when that takes long.
    """

    id: str
    context: text.Context
    revision: int
    candidate_id: str
    stable_id: str
    anchor_id: str
    state: ReleaseState
    salt: bytes
    created_at: datetime.datetime
    arms: tuple[ArmTarget, ...] = ()
    paused: bool = False
    rule: str = "superior"
    margin: float = 0.0
    evidence: Evidence | None = None
    history: tuple[Transition, ...] = ()
    evidence_started_at: datetime.datetime | None = None
    forced_reason: str = ""
    generation: int = 0
    quarantine: Quarantine | None = None
    acts: tuple[Act, ...] = ()
    terms: lines.ReleaseConfig | None = None
    reward_id: str = ""
    waits_for: str = ""
