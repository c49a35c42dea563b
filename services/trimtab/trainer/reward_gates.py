"""Judges a reward model on feedback it never saw: its figures, and the gates it must pass.

Per kind of feedback: the mean negative log-likelihood must be below that of the best constant, and not above that of
bags of words (`trainer.baselines`, fitted on what the model was fitted on) by more than chance explains: a paired 95 %
interval, because on a hundred examples the sign of a small difference is a coin (docs/decisions/0004). A kind that
could not be judged was not trained on (`trainer.reward_data.judged_kinds`), so that no gate is passed unmeasured.
Called by `trainer.reward_model`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch

from trimtab.core import models
from trimtab.modeling import logprobs
from trimtab.trainer import baselines, losses, reward_data, reward_hub

_BINS = 10
_Z95 = 1.959963984540054


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    gates: tuple[models.GateFigure, ...]
    figures: dict[str, float]


def judge(
    model: Any, terms: reward_hub.RewardTerms, seen: reward_data.Feedback, unseen: reward_data.Feedback
) -> Verdict:
    """seen: what it was fitted on; unseen: what it is judged on."""
    gates: list[models.GateFigure] = []
    figures = {"trained_pairs": float(len(seen.pairs)), "trained_thumbs": float(len(seen.thumbs))}
    if unseen.pairs:
        nll_P = _pair_nll(model, terms, unseen.pairs)
        words = baselines.bag_of_words_pairs([p.words for p in seen.pairs], [p.words for p in unseen.pairs])
        gates += _kind_gates("pair", nll_P, baselines.COIN, words)
        # which answer is named first means nothing: read with the one the model favours first
        chances_P = (-nll_P).exp()
        favoured_P = torch.maximum(chances_P, 1 - chances_P)
        figures |= _kind_figures("pair", nll_P, calibration_error(favoured_P, chances_P > 0.5), words)
    if unseen.thumbs:
        nll_P = _thumb_nll(model, terms, unseen.thumbs)
        words = baselines.bag_of_words_thumbs([t.words for t in seen.thumbs], [t.words for t in unseen.thumbs])
        constant = baselines.best_constant([thumb.words for thumb in unseen.thumbs])
        gates += _kind_gates("thumb", nll_P, constant, words)
        up_P = torch.tensor([thumb.up for thumb in unseen.thumbs])
        up_chances_P = torch.where(up_P, (-nll_P).exp(), 1 - (-nll_P).exp())
        figures |= _kind_figures("thumb", nll_P, calibration_error(up_chances_P, up_P), words)
    return Verdict(tuple(gates), figures)


@torch.no_grad()
def _pair_nll(model: Any, terms: reward_hub.RewardTerms, pairs: Sequence[reward_data.Pair]) -> torch.Tensor:
    """nll_P of what each rater said. Margins shape training, not the probability."""
    rewards_B = _rewards(model, terms, reward_data.Feedback(pairs=tuple(pairs)))
    return losses.bradley_terry_nll(rewards_B[0::2] - rewards_B[1::2])


@torch.no_grad()
def _thumb_nll(model: Any, terms: reward_hub.RewardTerms, thumbs: Sequence[reward_data.Thumb]) -> torch.Tensor:
    return terms.thumb_nll(_rewards(model, terms, reward_data.Feedback(thumbs=tuple(thumbs))), thumbs)


def _rewards(model: Any, terms: reward_hub.RewardTerms, feedback: reward_data.Feedback) -> torch.Tensor:
    """rewards_B in float64, in the order of `feedback.answers()`."""
    every = feedback.answers()
    rewards_B = torch.zeros(len(every), dtype=torch.float64)
    for indices in logprobs.batches_by_length([len(answer) for answer in every], logprobs.FORWARD_POSITIONS):
        rewards_B[indices] = terms.of(model, [every[i] for i in indices]).double()
    return rewards_B


def _kind_gates(
    kind: str, nll_P: torch.Tensor, constant: baselines.Line, words: baselines.Line
) -> list[models.GateFigure]:
    mean = nll_P.mean().item()
    # bags of words that hold no word in common predict a constant, and every example costs the same
    line_P = torch.tensor(words.nll_P or [words.nll] * len(nll_P), dtype=nll_P.dtype)
    gap_P = nll_P - line_P
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


def _kind_figures(kind: str, nll_P: torch.Tensor, calibration: float, words: baselines.Line) -> dict[str, float]:
    coin = math.log(2)
    right_P = (nll_P < coin).double() + 0.5 * (nll_P == coin).double()
    return {
        f"{kind}s_judged": float(len(nll_P)),
        f"{kind}_nll": nll_P.mean().item(),
        f"{kind}_accuracy": right_P.mean().item(),
        f"{kind}_calibration_error": calibration,
        f"{kind}_bag_of_words_nll": words.nll,
        f"{kind}_bag_of_words_accuracy": words.accuracy,
    }


def calibration_error(predicted_P: torch.Tensor, happened_P: torch.Tensor) -> float:
    """Expected calibration error (Naeini et al. 2015): mean |share that happened - mean prediction| over ten bins."""
    bins_P = (predicted_P * _BINS).long().clamp(max=_BINS - 1)
    gaps_P = happened_P.double() - predicted_P.double()
    return torch.zeros(_BINS, dtype=torch.float64).index_add(0, bins_P, gaps_P).abs().sum().item() / len(predicted_P)
