"""Calibration: whether what a reward model expects happens as often as it expects it. Figures only.

Nothing here changes a model: a temperature fitted afterwards would leave every order of answers, and so every policy,
as it is, and would hide that the margin no longer means what it says. The slope says what that temperature would be.
Measured on the latest part of the training split, kept from training (`recent_share`): people drift, and a random slice
would not show it. What counts is the examples' weight, as in training; counts of examples are called so.
Called by `trainer.reward.fitting` and `trainer.reward.judging`.
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
        weights_P = material.weights_of(items)
        rewards_B = scores.rewards_of(model, terms, items)
        nll_P = terms.of_kind(kind).nll(rewards_B, said)
        found |= {f"recent_{kind}s": float(len(said)), f"recent_{kind}_nll": _mean(nll_P, weights_P)}
        accuracy = terms.of_kind(kind).accuracy(rewards_B, said, weights_P)
        if accuracy is not None:
            found[f"recent_{kind}_accuracy"] = accuracy
        logits = logits_of(terms, rewards_B, items)
        if logits is not None:
            found |= {f"recent_{kind}_{name}": value for name, value in of_logits(*logits).items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def logits_of(
    terms: hub.RewardTerms, rewards_B: torch.Tensor, items: Sequence[material.Item]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """(logits_P, happened_P, weights_P) of what either happens or does not; None for other kinds.

    Of decided pairs each is read with the answer first that the model favours: which is named first means nothing.
    """
    said, weights_P = [item.label for item in items], material.weights_of(items)
    thumbs = [label for label in said if isinstance(label, labels.Thumb)]
    if thumbs:
        logits_P = terms.thumbs.log_slope.exp() * rewards_B + terms.thumbs.intercepts(thumbs)
        return logits_P, torch.tensor([thumb.up for thumb in thumbs]), weights_P
    decided = [label for label in said if isinstance(label, labels.Pair)]
    if decided:
        wanted_P = [not label.tie for label in decided]
        gaps_P = (rewards_B[0::2] - rewards_B[1::2])[wanted_P]
        return gaps_P.abs(), gaps_P > 0, weights_P[wanted_P]
    return None


def of_logits(
    logits_P: torch.Tensor, happened_P: torch.Tensor, weights_P: torch.Tensor | None = None
) -> dict[str, float]:
    """Brier score (Brier 1950), expected calibration error, calibration slope, and each margin bucket's share."""
    if not len(logits_P):
        return {}
    weights_P = _ones(logits_P) if weights_P is None else weights_P
    chances_P = logits_P.double().sigmoid()
    found = {
        "brier": _mean((chances_P - happened_P.double()).square(), weights_P),
        "calibration_error": calibration_error(chances_P, happened_P, weights_P),
    }
    if len(logits_P) >= _FEWEST:
        slope = calibration_slope(logits_P, happened_P, weights_P)
        found |= {"calibration_slope": slope} if math.isfinite(slope) else {}
    return found | _by_margin(logits_P, happened_P, weights_P)


def calibration_error(
    predicted_P: torch.Tensor, happened_P: torch.Tensor, weights_P: torch.Tensor | None = None
) -> float:
    """Expected calibration error (Naeini et al. 2015): mean |share that happened - mean prediction| over ten bins.

    NaN where a prediction is no number.
    """
    if not predicted_P.isfinite().all():
        return math.nan
    weights_P = _ones(predicted_P) if weights_P is None else weights_P
    bins_P = (predicted_P * _BINS).long().clamp(max=_BINS - 1)
    gaps_P = weights_P * (happened_P.double() - predicted_P.double())
    gaps = torch.zeros(_BINS, dtype=torch.float64).index_add(0, bins_P, gaps_P).abs().sum()
    return (gaps / weights_P.sum()).item()


@torch.enable_grad()
def calibration_slope(logits_P: torch.Tensor, happened_P: torch.Tensor, weights_P: torch.Tensor | None = None) -> float:
    """b of P(happened) = sigma(b logit) by maximum likelihood (Cox 1958): 1 is calibrated, below 1 too sure of itself.

    It is 1 / temperature (Guo et al. 2017, arXiv:1706.04599). NaN where everything happened as favoured, or nothing.
    """
    logits_P = logits_P.double()
    as_favoured_P = (logits_P > 0) == happened_P.bool()
    if as_favoured_P.all() or not as_favoured_P.any():
        return math.nan
    slope = torch.ones((), dtype=torch.float64, requires_grad=True)
    nothing_P = torch.zeros_like(logits_P)
    shares_P = _ones(logits_P) if weights_P is None else weights_P
    shares_P = shares_P / shares_P.sum()

    def objective() -> torch.Tensor:
        return (shares_P * likelihoods.thumb_nll(logits_P, happened_P, slope, nothing_P)).sum()

    convex.minimise([slope], objective)
    return slope.item()


def _by_margin(logits_P: torch.Tensor, happened_P: torch.Tensor, weights_P: torch.Tensor) -> dict[str, float]:
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
                f"{name}_right": _mean(favoured_P[inside_P], weights_P[inside_P]),
                f"{name}_expected": _mean(expected_P[inside_P], weights_P[inside_P]),
            }
    return found


def _ones(values_P: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(values_P), dtype=torch.float64)


def _mean(values_P: torch.Tensor, weights_P: torch.Tensor) -> float:
    return ((weights_P * values_P).sum() / weights_P.sum()).item()
