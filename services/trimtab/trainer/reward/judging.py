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
from collections.abc import Sequence
from typing import Any

import torch

from trimtab.core import models
from trimtab.modeling import logprobs
from trimtab.trainer.reward import baselines, hub, labels, material

_BINS = 10
_Z95 = 1.959963984540054


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    gates: tuple[models.GateFigure, ...]
    figures: dict[str, float]


@torch.no_grad()
def judge(model: Any, terms: hub.RewardTerms, seen: material.Feedback, unseen: material.Feedback) -> Verdict:
    """seen: what it was fitted on; unseen: what it is judged on."""
    gates: list[models.GateFigure] = []
    figures = {f"trained_{kind}s": float(len(seen.of(kind))) for kind in labels.KINDS}
    for kind in labels.KINDS:
        said = [item.label for item in unseen.of(kind)]
        if not said:
            continue
        rewards_B = rewards_of(model, terms, unseen.of(kind))
        nll_P = terms.of_kind(kind).nll(rewards_B, said)
        words = baselines.bag_of_words([item.label for item in seen.of(kind)], said)
        constant = baselines.best_constant(said)
        gates += _kind_gates(kind, nll_P, constant, words)
        figures |= _kind_figures(kind, nll_P, words)
        right_P = terms.of_kind(kind).right(rewards_B, said)
        if right_P is not None:
            figures[f"{kind}_accuracy"] = right_P.mean().item()
        chances_P = _chances(kind, terms, rewards_B, said)
        if chances_P is not None:
            figures[f"{kind}_calibration_error"] = calibration_error(*chances_P)
    return Verdict(tuple(gates), figures)


@torch.no_grad()
def rewards_of(model: Any, terms: hub.RewardTerms, items: Sequence[material.Item]) -> torch.Tensor:
    """rewards_B in float64, of the items' answers in turn."""
    every = [answer for item in items for answer in item.answers]
    rewards_B = torch.zeros(len(every), dtype=torch.float64)
    for indices in logprobs.batches_by_length([len(answer) for answer in every], logprobs.FORWARD_POSITIONS):
        rewards_B[indices] = terms.of(model, [every[i] for i in indices]).double()
    return rewards_B


def _chances(
    kind: labels.Kind, terms: hub.RewardTerms, rewards_B: torch.Tensor, said: Sequence[labels.Label]
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(predicted_P, happened_P) of what either happens or does not; None for other kinds."""
    thumbs = [label for label in said if isinstance(label, labels.Thumb)]
    if thumbs:
        logits_P = terms.thumbs.log_slope.exp() * rewards_B + terms.thumbs.intercepts(thumbs)
        return logits_P.sigmoid(), torch.tensor([thumb.up for thumb in thumbs])
    decided = [label for label in said if isinstance(label, labels.Pair)]
    if decided:
        gaps_P = (rewards_B[0::2] - rewards_B[1::2])[[not label.tie for label in decided]]
        # which answer is named first means nothing: read with the one the model favours first
        return gaps_P.abs().sigmoid(), gaps_P > 0
    return None


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


def calibration_error(predicted_P: torch.Tensor, happened_P: torch.Tensor) -> float:
    """Expected calibration error (Naeini et al. 2015): mean |share that happened - mean prediction| over ten bins."""
    bins_P = (predicted_P * _BINS).long().clamp(max=_BINS - 1)
    gaps_P = happened_P.double() - predicted_P.double()
    return torch.zeros(_BINS, dtype=torch.float64).index_add(0, bins_P, gaps_P).abs().sum().item() / len(predicted_P)
