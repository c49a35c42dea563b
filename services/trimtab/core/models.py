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


class Fence:
    """Which records of topic `models` count, for whoever acts on them: of a line, none of an older generation than one
    that stands before it. So what a trainer announces that slept through its lease counts for nobody.

    Generation 0 is an operator's own act, and counts.
    """

    def __init__(self) -> None:
        # By line: where the generation rose, and to what.
        self._risen: dict[tuple[str, str], list[tuple[int, int]]] = {}

    def admits(self, model: PublishedModel, offset: int) -> bool:
        """Whether the record counts. offset: where it stood first, before any replay."""
        risen = self._risen.setdefault((model.context.tenant, model.context.line), [])
        before = max((generation for place, generation in risen if place < offset), default=0)
        if model.generation > before:
            risen.append((offset, model.generation))
        return model.generation >= before or model.generation == 0

    def generation(self, tenant: str, line: str) -> int:
        """The newest that has published on this line; 0 when none has."""
        return max((generation for _, generation in self._risen.get((tenant, line), ())), default=0)
