"""A new reward model against the incumbent: has it forgotten what the old one knew?

Both are asked for the probability of the same feedback that neither has learned from, the held-out split, each with its
own tokens and its own terms; the terms of single raters are of neither. What the two differ by is judged on the *old*
part: what had been given when the incumbent was made. The new part, which only the newer model's time has seen, is a
figure. A model is refused that is shown to be worse by more than a margin (docs/decisions/0013). Called by
`trainer.reward.fitting`.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch

from trimtab.core import models, statistics
from trimtab.modeling import rewards
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.reward import labels, likelihoods, material


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    gates: tuple[models.GateFigure, ...]
    figures: dict[str, float]


def compare(
    candidate: rewards.LoadedReward,
    incumbent: rewards.LoadedReward,
    held_out: Sequence[datasets.DatasetExample],
    settings: recipes.RewardSettings,
) -> Comparison:
    """The gate "not worse than the incumbent" and the differences in nats per example.

    No gate where fewer than `minimum_examples` can be compared; `incumbent_compared` says how many were.
    """
    ours, theirs = _nats(candidate, held_out, settings), _nats(incumbent, held_out, settings)
    both = [(item, nats - theirs[item.id][1]) for item, nats in ours.values() if item.id in theirs]
    until = incumbent.hub.seen_until or math.inf
    old = [(item, gap) for item, gap in both if item.occurred_at <= until]
    new = [(item, gap) for item, gap in both if item.occurred_at > until]
    figures = {"incumbent_compared": float(len(old)), **_figures("old", old), **_figures("new", new)}
    if len(old) < settings.minimum_examples:
        return Comparison((), figures)
    return Comparison((not_worse(old, settings.incumbent_margin),), figures)


def not_worse(gaps: Sequence[tuple[material.Item, float]], margin: float) -> models.GateFigure:
    """The gate: passed unless the whole interval lies above the margin. gaps: nats more than the incumbent's."""
    mean, chance = _difference(gaps)
    return models.GateFigure(
        name="nll_above_incumbent",
        value=mean,
        threshold=margin + chance,
        passed=mean <= margin + chance,
        detail=f"nats per held-out example more than the incumbent's, by weight, on {len(gaps)} that were there in its "
        f"time; up to the threshold it is not shown to be above {margin:g} (paired, by rater, 95 %)",
    )


def nll(hub: rewards.Hub, label: labels.Label, rewards_K: torch.Tensor) -> float | None:
    """Nats of what was said under saved terms; None for a kind, scale or tie that the model never saw.

    rewards_K: of the label's answers, float64.
    """
    if label.kind not in hub.kinds:
        return None
    match label:
        case labels.Pair():
            gap = rewards_K[:1] - rewards_K[1:]
            if hub.ties is None or label.edited:  # nobody ties with a correction
                return None if label.tie else likelihoods.bradley_terry_nll(gap).item()
            return likelihoods.davidson_nll(gap, torch.tensor([label.tie]), rewards_K.new_tensor(hub.ties).log()).item()
        case labels.Thumb():
            intercept = rewards_K.new_tensor([hub.intercept + hub.surfaces.get(label.surface, 0.0)])
            up = torch.tensor([label.up])
            return likelihoods.thumb_nll(rewards_K, up, rewards_K.new_tensor(hub.slope), intercept).item()
        case labels.Rating():
            stars = hub.stars.get(str(label.scale))
            if stars is None:
                return None
            given = torch.tensor([label.stars])
            slope, cutpoints = rewards_K.new_tensor(stars.slope), rewards_K.new_tensor(stars.cutpoints)
            return likelihoods.ordered_logit_nll(rewards_K, given, slope, cutpoints).item()
        case labels.Ranking():
            if label.largest_tie > 1 + len(hub.ranking_ties):
                return None
            deltas = rewards_K.new_tensor(hub.ranking_ties).log()
            ranks = torch.tensor([label.ranks])
            return likelihoods.plackett_luce_nll(rewards_K.unsqueeze(0), ranks, deltas).item()


def _nats(
    reward: rewards.LoadedReward, held_out: Sequence[datasets.DatasetExample], settings: recipes.RewardSettings
) -> dict[str, tuple[material.Item, float]]:
    """Each example that the model can read and gives a probability to, with its nats, by the example's id."""
    feedback = material.prepare(reward.encoder, held_out, settings, encoding.Skipped())
    measured = reward.measure(feedback.answers())
    rewards_B = torch.tensor([one.mean for one in measured], dtype=torch.float64)
    found = {}
    parts = torch.split(rewards_B, [len(item.answers) for item in feedback.items])
    for item, rewards_K in zip(feedback.items, parts, strict=True):
        nats = nll(reward.hub, item.label, rewards_K)
        if nats is not None and math.isfinite(nats):
            found[item.id] = item, nats
    return found


def _difference(gaps: Sequence[tuple[material.Item, float]]) -> tuple[float, float]:
    """Mean by the examples' weights, and what chance may add at 95 %; raters are the units where there are several."""
    raters = [item.rater or item.id for item, _ in gaps]
    weights = [item.weight for item, _ in gaps]
    mean, low, _ = statistics.clustered_interval([gap for _, gap in gaps], raters, weights=weights)
    return mean, mean - low


def _figures(name: str, gaps: Sequence[tuple[material.Item, float]]) -> dict[str, float]:
    if len(gaps) < 2:
        return {}
    mean, chance = _difference(gaps)
    named = f"incumbent_nll_difference_{name}"
    return {named: mean, f"{named}_low": mean - chance, f"{named}_high": mean + chance}
