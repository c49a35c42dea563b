"""A candidate policy before all of its gates: held-out prompts, shipped probes, evaluation sets of the line's owner.

Called by `trainer.building` when a run has trained a policy and was given an evaluation reward model.
"""

import dataclasses
import math
from collections.abc import Sequence

from trimtab.core import lines, models
from trimtab.modeling import loading
from trimtab.trainer import recipes
from trimtab.trainer.judging import answering, evaluation, gates, probes, sets

Judged = tuple[tuple[models.GateFigure, ...], dict[str, float]]


@dataclasses.dataclass(frozen=True, slots=True)
class Compared:
    """The candidate and what it is held against. parent: None where it is the reference; reference_is: its name."""

    candidate: loading.LoadedPolicy
    reference: loading.LoadedPolicy
    parent: loading.LoadedPolicy | None
    reference_is: str


@dataclasses.dataclass(frozen=True, slots=True)
class OwnSet:
    """An evaluation set of the line's owner; at_least: as in `core.lines`."""

    name: str
    rows: list[sets.Prompt] | list[sets.Preference]
    at_least: float


def judge(
    compared: Compared,
    judges: evaluation.Judges,
    prompts: Sequence[answering.Prompt],
    *,
    own: Sequence[OwnSet],
    thresholds: lines.GateConfig,
    settings: recipes.PolicySettings,
) -> Judged:
    """Every gate of the candidate, and every figure by name."""
    measured = evaluation.measure(
        compared.candidate, compared.reference, judges, prompts, settings, parent=compared.parent
    )
    passed_or_not = [*gates.of_policy(measured, thresholds, settings.evaluation_minimum, compared.reference_is)]
    figures = measured.figures()
    wanted = [name for name in probes.SETS if getattr(thresholds, name) < 1]
    for name, probed in probes.probe(compared.candidate, compared.reference, wanted).items():
        passed_or_not.append(gates.of_probe(name, probed, getattr(thresholds, name)))
        if probed.asked:
            figures |= {name: probed.candidate, f"reference_{name}": probed.reference}
    for one in own:
        what, values = _on(one, compared, judges, settings)
        passed_or_not.append(gates.of_own_set(one.name, what, values, one.at_least, settings.evaluation_minimum))
        if values:
            figures[f"set_{one.name}"] = math.fsum(values) / len(values)
    return tuple(passed_or_not), figures


def _on(
    one: OwnSet, compared: Compared, judges: evaluation.Judges, settings: recipes.PolicySettings
) -> tuple[str, tuple[float, ...]]:
    """Of what an evaluation set gives a share, and the share's values."""
    candidate, reference = compared.candidate, compared.reference
    prompts = [row.turns for row in one.rows if isinstance(row, sets.Prompt)]
    if prompts:
        limit = settings.evaluation_max_tokens
        wins = evaluation.win_rate_on(candidate, reference, judges.evaluation, prompts, limit)
        return "prompts of its own on which the evaluation reward model prefers it to the reference, ties half", wins
    preferences = [row for row in one.rows if isinstance(row, sets.Preference)]
    moved = evaluation.moved_towards(candidate, reference, preferences)
    return "preferences whose chosen answer it makes likelier against the rejected one than the reference does", moved
