"""Requests to the rollout controller. request_id: the same for every try of one act; empty: an act of its own."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class AdoptRequest:
    """A line's first policy, or a new anchor."""

    tenant: str
    line: str
    model_id: str
    actor: str = ""
    reason: str = ""
    request_id: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class StartReleaseRequest:
    """force_reason: required when the model's gates refused it."""

    tenant: str
    line: str
    model_id: str
    actor: str = ""
    force_reason: str = ""
    request_id: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class LineRequest:
    """Promote, Pause, Resume, Abort, Undo: what, who and why."""

    tenant: str
    line: str
    actor: str = ""
    reason: str = ""
    request_id: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ReleaseQuarantineRequest:
    """release_id: of the release that ended "worse"."""

    tenant: str
    release_id: str
    actor: str = ""
    reason: str = ""
    request_id: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class GetReleaseRequest:
    tenant: str
    release_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class ListReleasesRequest:
    tenant: str
    line: str = ""
