"""A published artifact as the other processes learn of it."""

import dataclasses
import datetime
import enum

from trimtab.core import text


class ModelKind(enum.StrEnum):
    BASE = "base"
    POLICY = "policy"
    REWARD = "reward"
    EVALUATION_REWARD = "evaluation_reward"
    DATASET = "dataset"


@dataclasses.dataclass(frozen=True, slots=True)
class GateFigure:
    """One figure a model was judged by; `detail` says it in words, with units."""

    name: str
    value: float
    threshold: float
    passed: bool
    detail: str = ""

    def in_words(self) -> str:
        """The figure and what it means, for people who ask why."""
        meaning = self.detail.rstrip(".") or f"the threshold is {self.threshold:.3g}"
        return f"{self.name.replace('_', ' ')} {self.value:.3g} ({meaning})"


@dataclasses.dataclass(frozen=True, slots=True)
class PublishedModel:
    """The record on topic `models`. `passed`: every gate passed. `generation`: fencing, per line."""

    id: str
    context: text.Context
    kind: ModelKind
    published_at: datetime.datetime
    parents: tuple[str, ...] = ()
    run_id: str = ""
    datasets: tuple[str, ...] = ()
    gates: tuple[GateFigure, ...] = ()
    passed: bool = True
    generation: int = 0
    uri: str = ""
    method: str = ""
