"""Judges a reward model on feedback it never saw: its figures, and the gates it must pass.

Per kind of feedback: the mean negative log-likelihood must be below that of the best constant of the kind, and not
above that of bags of words (`trainer.reward.baselines`, fitted on what the model was fitted on, under the same
likelihood) by more than chance explains: a paired 95 % interval, because on a hundred examples the sign of a small
difference is a coin (docs/decisions/0004). A kind that could not be judged was not trained on
(`trainer.reward.material.judged_kinds`), so that no gate is passed unmeasured. Called by
`trainer.reward.fitting`.
"""

import dataclasses
import math
from typing import Any

import torch

from trimtab.core import models
from trimtab.modeling import rewards
from trimtab.trainer.reward import baselines, calibration, hub, labels, material, scores

_Z95 = 1.959963984540054


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
        nll_P = terms.of_kind(kind).nll(rewards_B, said)
        words = baselines.bag_of_words([item.label for item in seen.of(kind)], said)
        constant = baselines.best_constant(said)
        gates += _kind_gates(kind, nll_P, constant, words)
        figures |= _kind_figures(kind, nll_P, words)
        right_P = terms.of_kind(kind).right(rewards_B, said)
        if right_P is not None:
            figures[f"{kind}_accuracy"] = right_P.mean().item()
        logits = calibration.logits_of(terms, rewards_B, said)
        if logits is not None:
            figures[f"{kind}_calibration_error"] = calibration.calibration_error(logits[0].sigmoid(), logits[1])
    return Verdict(tuple(gates), {name: value for name, value in figures.items() if math.isfinite(value)})


def _kind_gates(
    kind: labels.Kind, nll_P: torch.Tensor, constant: baselines.Line, words: baselines.Line
) -> list[models.GateFigure]:
    mean = nll_P.mean().item()
    gap_P = nll_P - torch.tensor(words.nll_P, dtype=nll_P.dtype)
    chance = _Z95 * gap_P.std(correction=1).item() / math.sqrt(len(gap_P)) if len(gap_P) > 1 else math.inf
    return [
        models.GateFigure(
            name=f"{kind}_nll_below_constant",
            value=mean,
            threshold=constant.nll,
            passed=mean < constant.nll,
            detail=f"nats per unseen {kind}, {len(nll_P)} of them; the best constant has {constant.nll:.4f}",
        ),
        models.GateFigure(
            name=f"{kind}_nll_above_bag_of_words",
            value=gap_P.mean().item(),
            threshold=chance,
            passed=gap_P.mean().item() <= chance,
            detail=f"{mean:.4f} nats per unseen {kind} against {words.nll:.4f} of bags of words; "
            "up to the threshold chance explains it (paired, 95 %)",
        ),
    ]


def _kind_figures(kind: labels.Kind, nll_P: torch.Tensor, words: baselines.Line) -> dict[str, float]:
    figures = {
        f"{kind}s_judged": float(len(nll_P)),
        f"{kind}_nll": nll_P.mean().item(),
        f"{kind}_bag_of_words_nll": words.nll,
    }
    return figures if words.accuracy is None else figures | {f"{kind}_bag_of_words_accuracy": words.accuracy}
