"""Judges a reward model on feedback it never saw: its figures, and the gates it must pass.

Per kind of feedback: the mean negative log-likelihood must be below that of the best constant of the kind, and not
above that of bags of words (`trainer.reward.baselines`, fitted on what the model was fitted on, under the same
likelihood) by more than chance explains: a paired 95 % interval, because on a hundred examples the sign of a small
difference is a coin (docs/decisions/0004). All three lines are means over the examples by their weights in the data
set, as they are learned from. A kind that could not be judged was not trained on
(`trainer.reward.material.judged_kinds`), so that no gate is passed unmeasured. Called by
`trainer.reward.fitting`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch

from trimtab.core import models, statistics
from trimtab.modeling import rewards
from trimtab.trainer.reward import baselines, calibration, hub, labels, material, scores


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    gates: tuple[models.GateFigure, ...]
    figures: dict[str, float]


def disagreement(reward: rewards.LoadedReward, unseen: material.Feedback) -> dict[str, float]:
    """How far an ensemble's heads are apart on unseen answers, and on those of pairs it orders wrongly and rightly."""
    if reward.ensemble is None:
        return {}
    measured = reward.measure(unseen.answers())
    deviations_B = torch.tensor([one.deviation for one in measured], dtype=torch.float64)
    figures = {"disagreement": deviations_B.mean().item()}
    counts = [len(item.answers) for item in unseen.items]
    means_B = torch.tensor([one.mean for one in measured], dtype=torch.float64)
    of: dict[bool, list[float]] = {True: [], False: []}
    parts = zip(unseen.items, torch.split(means_B, counts), torch.split(deviations_B, counts), strict=True)
    for item, means_K, deviations_K in parts:
        if isinstance(item.label, labels.Pair) and not item.label.tie:
            of[bool(means_K[0] > means_K[1])].append(deviations_K.mean().item())
    for right, values in of.items():
        if values:
            figures[f"disagreement_where_{'right' if right else 'wrong'}"] = math.fsum(values) / len(values)
    return figures


@torch.no_grad()
def judge(model: Any, terms: hub.RewardTerms, seen: material.Feedback, unseen: material.Feedback) -> Verdict:
    """seen: what it was fitted on; unseen: what it is judged on."""
    gates: list[models.GateFigure] = []
    figures = {f"trained_{kind}s": float(len(seen.of(kind))) for kind in labels.KINDS}
    for kind in labels.KINDS:
        said = [item.label for item in unseen.of(kind)]
        if not said:
            continue
        rewards_B = scores.rewards_of(model, terms, unseen.of(kind))
        nll_P = terms.of_kind(kind).nll(rewards_B, said).tolist()
        learned, weights = [item.weight for item in seen.of(kind)], [item.weight for item in unseen.of(kind)]
        words = baselines.bag_of_words([item.label for item in seen.of(kind)], said, learned, weights)
        constant = baselines.best_constant(said, weights)
        gates += _kind_gates(kind, nll_P, weights, constant, words)
        figures |= _kind_figures(kind, gates[-2].value, weights, words)
        accuracy = terms.of_kind(kind).accuracy(rewards_B, said, material.weights_of(unseen.of(kind)))
        if accuracy is not None:
            figures[f"{kind}_accuracy"] = accuracy
        logits = calibration.logits_of(terms, rewards_B, unseen.of(kind))
        if logits is not None:
            predicted_P, *happened = logits[0].sigmoid(), *logits[1:]
            figures[f"{kind}_calibration_error"] = calibration.calibration_error(predicted_P, *happened)
    return Verdict(tuple(gates), {name: value for name, value in figures.items() if math.isfinite(value)})


def _kind_gates(
    kind: labels.Kind,
    nll_P: Sequence[float],
    weights: Sequence[float],
    constant: baselines.Line,
    words: baselines.Line,
) -> list[models.GateFigure]:
    each = [str(number) for number in range(len(nll_P))]
    mean, _, _ = statistics.clustered_interval(nll_P, each, weights=weights)
    gaps = [nll - of_words for nll, of_words in zip(nll_P, words.nll_P, strict=True)]
    gap, low, _ = statistics.clustered_interval(gaps, each, weights=weights)
    counted = f"by weight, over {len(nll_P)}"
    if len(set(weights)) > 1:
        counted += f" that tell as much as {statistics.effective_number(weights):.0f} of equal weight"
    return [
        models.GateFigure(
            name=f"{kind}_nll_below_constant",
            value=mean,
            threshold=constant.nll,
            passed=mean < constant.nll,
            detail=f"nats per unseen {kind} ({counted}); the best constant has {constant.nll:.4f}",
        ),
        models.GateFigure(
            name=f"{kind}_nll_above_bag_of_words",
            value=gap,
            threshold=gap - low,
            passed=gap <= gap - low,
            detail=f"{mean:.4f} nats per unseen {kind} against {words.nll:.4f} of bags of words ({counted}); "
            "up to the threshold chance explains it (paired, 95 %)",
        ),
    ]


def _kind_figures(kind: labels.Kind, nll: float, weights: Sequence[float], words: baselines.Line) -> dict[str, float]:
    figures = {f"{kind}s_judged": float(len(weights)), f"{kind}_nll": nll, f"{kind}_bag_of_words_nll": words.nll}
    if len(set(weights)) > 1:
        figures[f"{kind}s_judged_effective"] = statistics.effective_number(weights)
    return figures if words.accuracy is None else figures | {f"{kind}_bag_of_words_accuracy": words.accuracy}
