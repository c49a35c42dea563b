"""What a rule looks at and what it returns, and whether a series moved. Standard library only."""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Figures = Mapping[str, float]
# What a run descends, by the names that methods give it.
LOSSES = ("loss_nats_per_token", "loss_nats_per_example", "loss")
# From so many standard errors on, what moved has moved.
SIGMAS = 3.0
# KL of neighbouring steps, nats a token: float32 noise is below, a step that does anything above.
MOVED_KL = 1e-7


@dataclasses.dataclass(frozen=True, slots=True)
class Evidence:
    """settings: all of the run's. phases: by name the figures of each step, in order. figures: at its end, none before.

    verdict: what became of its policy's release, in the words of its state; empty when it had none that ended.
    """

    settings: Mapping[str, Any]
    phases: Mapping[str, Sequence[Figures]]
    figures: Figures = dataclasses.field(default_factory=dict)
    verdict: str = ""

    def series(self, name: str) -> list[float]:
        """The finite values of the first phase that tells this figure, in the order of its steps."""
        found = (finite(rows, name) for rows in self.phases.values())
        return next((values for values in found if values), [])

    def last(self, name: str) -> float | None:
        """As it was at the run's end; of a run that goes on, at its newest step."""
        values = self.series(name)
        return self.figures.get(name, values[-1] if values else None)


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """seen, why, advice: sentences. alarm: nothing useful was learned, whatever else the figures say."""

    name: str
    seen: str
    why: str
    advice: str
    alarm: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Trend:
    """Of a series: the means of its first and of its last fifth (one step at least).

    sigmas: their difference in standard errors, from the differences between neighbours, which a trend hardly touches
    (von Neumann 1941); infinite where the series has no noise and moved.
    """

    first: float
    last: float
    sigmas: float

    @property
    def change(self) -> float:
        return self.last - self.first


def trend(values: Sequence[float]) -> Trend | None:
    """None of fewer than four values."""
    if len(values) < 4:
        return None
    width = max(1, len(values) // 5)
    first, last = statistics.fmean(values[:width]), statistics.fmean(values[-width:])
    steps = [b - a for a, b in itertools.pairwise(values)]
    noise = math.sqrt(math.fsum(step * step for step in steps) / (2 * len(steps))) * math.sqrt(2 / width)
    sigmas = abs(last - first) / noise if noise else (math.inf if last != first else 0.0)
    return Trend(first, last, sigmas)


def finite(rows: Sequence[Figures], name: str) -> list[float]:
    return [row[name] for row in rows if name in row and math.isfinite(row[name])]


def setting(evidence: Evidence, name: str) -> str:
    """`name` with its value, for advice."""
    return f"`{name}` ({evidence.settings[name]})" if name in evidence.settings else f"`{name}`"
