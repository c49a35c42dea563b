"""Reward models of several criteria, combined into one that decides and one that judges. Dispatched by the builder.

Each criterion has a model of its own, trained and judged on the feedback that names it (`trainer.reward.fitting`), and
its gates and figures carry its name. They are standardised over the answers of the training split, of every criterion,
so that a weight means the same for each. The rule is `modeling.combining`'s.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from trimtab.core import models
from trimtab.modeling import combining, rewards
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.reward import fitting, material
from trimtab.trainer.steps import progress, ranks


def train(
    parent: fitting.Parent,
    dataset: datasets.Dataset,
    settings: recipes.RewardSettings,
    seed: int,
    report: progress.Progress,
    *,
    incumbent: rewards.LoadedReward | None = None,
    among: ranks.Ranks = ranks.ALONE,
) -> tuple[list[fitting.TrainedReward], dict[str, float]]:
    """The deciding and the evaluation reward model, and what was skipped. InvalidField when nothing can be judged."""
    weights = settings.weights_of_criteria()
    if not weights:
        return fitting.train_both(parent, dataset, settings, seed, report, incumbent=incumbent, among=among)
    made: dict[str, list[fitting.TrainedReward]] = {}
    skipped: dict[str, float] = {}
    for name in weights:
        before = incumbent.of_criterion(name) if incumbent is not None else None
        made[name], left_out = fitting.train_both(
            parent, dataset, settings, seed, report, incumbent=before, criterion=name, among=among
        )
        skipped |= {_named(name, figure): value for figure, value in left_out.items()}
    answered = dataset.of("train")
    return [
        _combined(
            {name: next(one for one in both if one.kind is kind) for name, both in made.items()}, answered, settings
        )
        for kind in (models.ModelKind.REWARD, models.ModelKind.EVALUATION_REWARD)
    ], skipped


def _combined(
    parts: Mapping[str, fitting.TrainedReward],
    answered: Sequence[datasets.DatasetExample],
    settings: recipes.RewardSettings,
) -> fitting.TrainedReward:
    weights = settings.weights_of_criteria()
    described = []
    for name, one in parts.items():
        centre, scale = _spread(one.reward, answered)
        described.append(combining.Part(name, weights[name], centre, scale))
    safety = combining.Constraint(settings.safety, settings.safety_threshold) if settings.safety else None
    first, *others = (one.reward for one in parts.values())
    rule = combining.Rule(tuple(described), safety)
    return fitting.TrainedReward(
        kind=next(iter(parts.values())).kind,
        reward=dataclasses.replace(first, rule=rule, others=tuple(others)),
        gates=tuple(
            dataclasses.replace(gate, name=_named(name, gate.name)) for name, one in parts.items() for gate in one.gates
        ),
        figures={_named(name, key): value for name, one in parts.items() for key, value in one.figures.items()},
    )


def _spread(reward: rewards.LoadedReward, answered: Sequence[datasets.DatasetExample]) -> tuple[float, float]:
    """(mean, standard deviation) of the rewards of all answers, each text to each prompt once."""
    texts = {
        (encoding.messages_of(example.prompt), said): None
        for example in answered
        if (label := material.label_of(example)) is not None
        for said in label.texts
    }
    encoded = [reward.encoder.encode(messages, said) for messages, said in texts]
    means = [one.mean for one in reward.measure([answer for answer in encoded if not isinstance(answer, str)])]
    deviation = statistics.pstdev(means)
    return statistics.fmean(means), deviation if deviation > 0 else 1.0


def _named(criterion: str, figure: str) -> str:
    return f"{criterion or 'unnamed'}: {figure}"
