"""Calibration: whether what a reward model expects happens as often as it expects it. Figures only.

Nothing here changes a model: a temperature fitted afterwards would leave every order of answers, and so every policy,
as it is, and would hide that the margin no longer means what it says. The slope says what that temperature would be.
Measured on the latest part of the training split, kept from training (`recent_share`): people drift, and a random slice
would not show it. Called by `trainer.reward.fitting` and `trainer.reward.judging`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from trimtab.trainer.reward import convex, hub, labels, likelihoods, material, scores

_BINS = 10
# Ends of the margin buckets, in units of reward (log-odds): even, leaning, clear, certain.
_MARGINS = (0.5, 1.0, 2.0)
_FEWEST = 16


@torch.no_grad()
def of_recent(model: Any, terms: hub.RewardTerms, recent: material.Feedback) -> dict[str, float]:
    """Figures "recent_..." of each kind; none for no feedback."""
    found: dict[str, float] = {}
    for kind in labels.KINDS:
        items = recent.of(kind)
        if not items:
            continue
        said = [item.label for item in items]
        rewards_B = scores.rewards_of(model, terms, items)
        nll_P = terms.of_kind(kind).nll(rewards_B, said)
        found |= {f"recent_{kind}s": float(len(said)), f"recent_{kind}_nll": nll_P.mean().item()}
        right_P = terms.of_kind(kind).right(rewards_B, said)
        if right_P is not None and len(right_P):
            found[f"recent_{kind}_accuracy"] = right_P.mean().item()
        logits = logits_of(terms, rewards_B, said)
        if logits is not None:
            found |= {f"recent_{kind}_{name}": value for name, value in of_logits(*logits).items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def logits_of(
    terms: hub.RewardTerms, rewards_B: torch.Tensor, said: Sequence[labels.Label]
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(logits_P, happened_P) of what either happens or does not; None for other kinds.

    Of decided pairs each is read with the answer first that the model favours: which is named first means nothing.
    """
    thumbs = [label for label in said if isinstance(label, labels.Thumb)]
    if thumbs:
        logits_P = terms.thumbs.log_slope.exp() * rewards_B + terms.thumbs.intercepts(thumbs)
        return logits_P, torch.tensor([thumb.up for thumb in thumbs])
    decided = [label for label in said if isinstance(label, labels.Pair)]
    if decided:
        gaps_P = (rewards_B[0::2] - rewards_B[1::2])[[not label.tie for label in decided]]
        return gaps_P.abs(), gaps_P > 0
    return None


def of_logits(logits_P: torch.Tensor, happened_P: torch.Tensor) -> dict[str, float]:
    """Brier score (Brier 1950), expected calibration error, calibration slope, and each margin bucket's share."""
    if not len(logits_P):
        return {}
    chances_P = logits_P.double().sigmoid()
    found = {
        "brier": (chances_P - happened_P.double()).square().mean().item(),
        "calibration_error": calibration_error(chances_P, happened_P),
    }
    if len(logits_P) >= _FEWEST:
        slope = calibration_slope(logits_P, happened_P)
        found |= {"calibration_slope": slope} if math.isfinite(slope) else {}
    return found | _by_margin(logits_P, happened_P)


def calibration_error(predicted_P: torch.Tensor, happened_P: torch.Tensor) -> float:
    """Expected calibration error (Naeini et al. 2015): mean |share that happened - mean prediction| over ten bins.

    NaN where a prediction is no number.
    """
    if not predicted_P.isfinite().all():
        return math.nan
    bins_P = (predicted_P * _BINS).long().clamp(max=_BINS - 1)
    gaps_P = happened_P.double() - predicted_P.double()
    return torch.zeros(_BINS, dtype=torch.float64).index_add(0, bins_P, gaps_P).abs().sum().item() / len(predicted_P)


@torch.enable_grad()
def calibration_slope(logits_P: torch.Tensor, happened_P: torch.Tensor) -> float:
    """b of P(happened) = sigma(b logit) by maximum likelihood (Cox 1958): 1 is calibrated, below 1 too sure of itself.

    It is 1 / temperature (Guo et al. 2017, arXiv:1706.04599). NaN where everything happened as favoured, or nothing.
    """
    logits_P = logits_P.double()
    as_favoured_P = (logits_P > 0) == happened_P.bool()
    if as_favoured_P.all() or not as_favoured_P.any():
        return math.nan
    slope = torch.ones((), dtype=torch.float64, requires_grad=True)
    nothing_P = torch.zeros_like(logits_P)
    convex.minimise([slope], lambda: likelihoods.thumb_nll(logits_P, happened_P, slope, nothing_P).mean())
    return slope.item()


def _by_margin(logits_P: torch.Tensor, happened_P: torch.Tensor) -> dict[str, float]:
    """For each bucket of |logit|: how many, the share that went as favoured, and the share that was expected to."""
    buckets_P = torch.bucketize(logits_P.double().abs(), torch.tensor(_MARGINS, dtype=torch.float64), right=True)
    favoured_P = torch.where(logits_P > 0, happened_P.double(), 1 - happened_P.double())
    expected_P = logits_P.double().abs().sigmoid()
    found: dict[str, float] = {}
    for number, (low, high) in enumerate(zip((0.0, *_MARGINS), (*_MARGINS, math.inf), strict=True)):
        inside_P = buckets_P == number
        if inside_P.any():
            name = f"margin_{low:g}_to_{high:g}" if high < math.inf else f"margin_above_{low:g}"
            found |= {
                f"{name}_count": float(inside_P.sum()),
                f"{name}_right": favoured_P[inside_P].mean().item(),
                f"{name}_expected": expected_P[inside_P].mean().item(),
            }
    return found
