"""Signals (copy, accept; regenerate, abandon): what they say about an answer, measured before they may weigh anything.

A signal is something a person did, not what he thinks: whether copying means liking differs from app to app. So signals
train nothing. The held-out ones are set against the reward of a model that never saw any: the slope a of

    P(good sign | a signal was seen) = sigma(a r + c)

with its 95 % interval. A slope whose interval lies above 0 shows that signals follow the reward. Called by
`trainer.reward.fitting`.
"""

import math
from collections.abc import Sequence

import torch

from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.reward import convex, labels, likelihoods, material

_Z95 = 1.959963984540054


def prepare(
    encoder: material.Encoder, examples: Sequence[datasets.DatasetExample], skipped: encoding.Skipped
) -> list[material.Item]:
    """Signals in tokens; as labels they are thumbs: up is a good sign."""
    items = []
    for example in examples:
        answer = encoder.encode(encoding.messages_of(example.prompt), example.response)
        if isinstance(answer, str):
            skipped.count(answer)
        else:
            label = labels.Thumb(example.response, example.up, rater=example.rater)
            items.append(material.Item(label, (answer,), weight=0.0))
    return items


def figures(observed: Sequence[material.Item], rewards_P: torch.Tensor) -> dict[str, float]:
    """How many there were, and the slope with its interval where it can be told. rewards_P: of their answers."""
    said = [item.label for item in observed if isinstance(item.label, labels.Thumb)]
    good_P = torch.tensor([label.up for label in said])
    counted = {"signals_judged": float(len(said))}
    if good_P.all() or not good_P.any():
        return counted  # nothing to tell good signs from
    slope, lower, upper = slope_interval(rewards_P, good_P, [label.rater for label in said])
    if not math.isfinite(upper - lower):
        return counted
    return counted | {"signal_slope": slope, "signal_slope_lower": lower, "signal_slope_upper": upper}


def slope_interval(rewards_P: torch.Tensor, good_P: torch.Tensor, raters: Sequence[str]) -> tuple[float, float, float]:
    """(slope, lower, upper) of a logistic regression on the reward, at 95 %.

    The variance is Liang and Zeger's (1986, Biometrika 73:13) with raters as clusters, times G / (G - 1) for G raters:
    the signals of one person are not independent. Infinite where it cannot be told: one rater, or rewards that part
    good signs from bad ones without an exception.
    """
    rewards_P = rewards_P.double()
    good_rewards_P, bad_rewards_P = rewards_P[good_P], rewards_P[~good_P]
    parted = good_rewards_P.min() >= bad_rewards_P.max() or bad_rewards_P.min() >= good_rewards_P.max()
    names = {rater: number for number, rater in enumerate(dict.fromkeys(raters))}
    if parted or len(names) < 2:
        return math.nan, -math.inf, math.inf
    design_P_2 = torch.stack((rewards_P - rewards_P.mean(), torch.ones_like(rewards_P)), dim=1)
    weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    one = torch.ones((), dtype=torch.float64)
    convex.minimise([weights], lambda: likelihoods.thumb_nll(design_P_2 @ weights, good_P, one, 0 * one).sum())
    with torch.no_grad():
        chances_P = (design_P_2 @ weights).sigmoid()
        information = (design_P_2 * (chances_P * (1 - chances_P)).unsqueeze(1)).T @ design_P_2
        scores_P_2 = design_P_2 * (good_P.double() - chances_P).unsqueeze(1)
        numbers_P = torch.tensor([names[rater] for rater in raters])
        scores_G_2 = torch.zeros(len(names), 2, dtype=torch.float64).index_add(0, numbers_P, scores_P_2)
        inverse = torch.linalg.inv(information)
        variance = (inverse @ (scores_G_2.T @ scores_G_2) @ inverse)[0, 0] * len(names) / (len(names) - 1)
        spread = _Z95 * variance.sqrt().item()
    return weights[0].item(), weights[0].item() - spread, weights[0].item() + spread
