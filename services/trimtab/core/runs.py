"""A training run: what it depends on, and how far it is."""

import dataclasses
import datetime
import enum

from trimtab.core import models

# GetRunResponse has a field named like the module, and a class body would look the annotation up among its fields.
_PublishedModel = models.PublishedModel
# Who asks for the runs that feedback starts by itself.
TRIGGER = "trigger"


class RunKind(enum.StrEnum):
    SFT = "sft"
    REWARD = "reward"
    PPO = "ppo"
    RLOO = "rloo"
    GRPO = "grpo"
    A2C = "a2c"
    DPO = "dpo"
    KTO = "kto"
    PRETRAIN = "pretrain"


class RunState(enum.StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclasses.dataclass(frozen=True, slots=True)
class RunSpec:
    """All a run depends on: the same spec gives the same weights. settings_json: the algorithm's settings."""

    tenant: str
    line: str
    kind: RunKind
    parent_id: str = ""
    reference_id: str = ""
    reward_id: str = ""
    evaluation_reward_id: str = ""
    dataset_id: str = ""
    settings_json: str = "{}"
    seed: int = 0
    label: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class RunFigure:
    name: str
    value: float


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    id: str
    spec: RunSpec
    state: RunState
    created_at: datetime.datetime
    started_at: datetime.datetime | None = None
    ended_at: datetime.datetime | None = None
    model_ids: tuple[str, ...] = ()
    problem: str = ""
    step: int = 0
    steps: int = 0
    figures: tuple[RunFigure, ...] = ()
    asked_by: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class StartRunRequest:
    """request_id: the same for every try of one act; empty: an act of its own."""

    spec: RunSpec
    actor: str = ""
    request_id: str = ""
    reason: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class GetRunRequest:
    tenant: str
    run_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class GetRunResponse:
    run: Run
    models: tuple[_PublishedModel, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class ListRunsRequest:
    tenant: str
    line: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class CancelRunRequest:
    """request_id: as in `StartRunRequest`."""

    tenant: str
    run_id: str
    actor: str = ""
    reason: str = ""
    request_id: str = ""
