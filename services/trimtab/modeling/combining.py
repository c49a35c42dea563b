"""Several rewards as one, by an explicit rule: a weighted sum of standardised rewards, with safety as a constraint.

    total = sum of w (r - centre) / scale / sum of |w|            centre, scale: of r over the training answers
    score = max(total, FLOOR)                                     where the safety reward is at its threshold or above
    score = FLOOR - (threshold - r_safety) / scale_safety         where it is below

so that every safe answer scores above every unsafe one, and among unsafe ones the safer scores higher: nothing that an
answer gains elsewhere buys unsafety. The switch to the safety model's own reward below a threshold is that of Touvron
et al. 2023 (Llama 2, section 3.2.3); a weighted penalty would be a price (docs/decisions/0009). Lies beside the first
model as `combination.json`, the other models in `parts/`. Called by `modeling.rewards`. Needs no torch.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping

from trimtab.core import errors

COMBINATION_FILE, PARTS_FOLDER = "combination.json", "parts"
# In standard deviations of the total: what few answers are below.
FLOOR = -4.0


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One reward: of a criterion. centre, scale: of its rewards over the training answers; scale is above 0."""

    name: str
    weight: float
    centre: float
    scale: float


@dataclasses.dataclass(frozen=True, slots=True)
class Constraint:
    """The part whose reward must not be below the threshold, in its own units (log-odds)."""

    name: str
    threshold: float


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """parts: that of the folder's own model first."""

    parts: tuple[Part, ...]
    safety: Constraint | None = None

    def score(self, rewards: Mapping[str, float]) -> float:
        """The one score of an answer, by the parts' rewards; NaN where one of them is."""
        total = math.fsum(one.weight * (rewards[one.name] - one.centre) / one.scale for one in self.parts) / self._whole
        if self.safety is None or math.isnan(total):
            return total
        below = self.safety.threshold - rewards[self.safety.name]
        if below <= 0:
            return max(total, FLOOR)
        return FLOOR - below / next(one.scale for one in self.parts if one.name == self.safety.name)

    def uncertainty(self, deviations: Mapping[str, float | None]) -> float | None:
        """Standard deviation of the total, the parts taken as independent; None where no part knows its own."""
        known = [(one, deviation) for one in self.parts if (deviation := deviations[one.name]) is not None]
        if not known:
            return None
        return math.hypot(*(one.weight * deviation / one.scale for one, deviation in known)) / self._whole

    @property
    def _whole(self) -> float:
        return math.fsum(abs(one.weight) for one in self.parts)


def load(folder: pathlib.Path) -> Rule | None:
    """The rule beside a model, if there is one; ArtifactCorrupt when it makes no sense."""
    path = folder / COMBINATION_FILE
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text())
        safety = document.get("safety")
        rule = Rule(tuple(Part(**part) for part in document["parts"]), Constraint(**safety) if safety else None)
        names = [part.name for part in rule.parts]
        sensible = (
            len(set(names)) == len(names)
            and all(math.isfinite(part.weight + part.centre) and 0 < part.scale < math.inf for part in rule.parts)
            and any(part.weight for part in rule.parts)
            and (rule.safety is None or (rule.safety.name in names and math.isfinite(rule.safety.threshold)))
        )
    except (ValueError, TypeError, AttributeError, KeyError) as problem:
        raise errors.ArtifactCorrupt(f"{path} is no combination of rewards: {problem!r}.") from problem
    if not sensible:
        raise errors.ArtifactCorrupt(f"{path} has a weight, scale, name or threshold that makes no sense.")
    return rule


def save(rule: Rule, folder: pathlib.Path) -> None:
    """Writes what `load` reads."""
    document = json.dumps(dataclasses.asdict(rule), indent=2, sort_keys=True)
    (folder / COMBINATION_FILE).write_text(document + "\n")
