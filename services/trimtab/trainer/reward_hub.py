"""The reward hub: one scalar r per answer, one proper likelihood per kind of feedback, and the terms around r.

    pair    -log sigma(r_chosen - r_rejected - margin)                      fixes the scale of r
    thumb   -log Bernoulli(up; sigma(a r + c + b_surface))                  log a ~ N(0, 1/4), b ~ N(0, tau^2)
    alone   pairs without thumbs: + 0.01 (r_chosen + r_rejected)^2          fixes the constant of r
    alone   thumbs without pairs: a = 1                                     fixes the scale of r

The optional surprise adds w (s - centre) / scale to r, s being the least log-probability of a token of the answer under
the frozen policy the reward model started from. A small reward model is at chance on whether a fact is right; the
policy's own doubt about a token is evidence of that, and w, learned from the feedback, says how much. It is part of the
reward for everyone who loads it (`modeling.rewards`), and off unless asked for.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from trimtab.modeling import answers, rewards
from trimtab.trainer import losses, reward_data

_LOG_SLOPE_VARIANCE = 0.25


class RewardTerms(nn.Module):
    """Slope, intercepts and the weight of the surprise; everything starts where it changes nothing."""

    def __init__(self, feedback: reward_data.Feedback, surface_deviation: float, least: "Least | None") -> None:
        super().__init__()
        self.has_pairs, self.has_thumbs = bool(feedback.pairs), bool(feedback.thumbs)
        self.least = least
        self._deviation = surface_deviation
        self._surfaces = {surface: number for number, surface in enumerate(reward_data.surfaces_of(feedback))}
        self.log_slope = nn.Parameter(torch.zeros(()), requires_grad=self.has_pairs and self.has_thumbs)
        self.intercept = nn.Parameter(torch.zeros(()))
        self.surfaces = nn.Parameter(torch.zeros(max(1, len(self._surfaces))))
        self.surprise = nn.Parameter(torch.zeros(()), requires_grad=least is not None)

    def of(self, model: Any, encoded: Sequence[answers.Answer]) -> torch.Tensor:
        """rewards_B of answers, with gradients."""
        scores_B = rewards.scores_at_last(model, [one.tokens for one in encoded])
        if self.least is None:
            return scores_B
        return scores_B + self.surprise * self.least.standardised(encoded).to(scores_B)

    def thumb_nll(self, rewards_P: torch.Tensor, thumbs: Sequence[reward_data.Thumb]) -> torch.Tensor:
        """Thumbs of a surface that was never trained on have that of no surface: its intercept is 0."""
        numbers = [self._surfaces.get(thumb.surface, -1) for thumb in thumbs]
        known_P = torch.tensor([number >= 0 for number in numbers])
        offsets_P = torch.where(known_P, self.surfaces[torch.tensor(numbers)], 0.0)
        ups_P = torch.tensor([thumb.up for thumb in thumbs])
        return losses.thumb_nll(rewards_P, ups_P, self.log_slope.exp(), self.intercept + offsets_P)

    def prior_penalty(self) -> torch.Tensor:
        """Negative log prior of slope and surface intercepts, up to a constant."""
        slope = self.log_slope.square() / (2 * _LOG_SLOPE_VARIANCE)
        return slope + self.surfaces.square().sum() / (2 * self._deviation**2)

    def hub(self) -> rewards.Hub:
        """The terms as they are saved beside the model."""
        surprise = None
        if self.least is not None:
            surprise = rewards.Surprise(self.surprise.item(), self.least.centre, self.least.scale)
        surfaces = {name: self.surfaces[number].item() for name, number in self._surfaces.items()}
        return rewards.Hub(self.log_slope.exp().item(), self.intercept.item(), surfaces, surprise)


@dataclasses.dataclass(frozen=True, slots=True)
class Least:
    """Surprise of known answers, looked up by their tokens; centre and scale are those of the training split."""

    values: Mapping[answers.Answer, float]
    centre: float
    scale: float

    @classmethod
    def of(cls, reference: Any, train: reward_data.Feedback, held_out: reward_data.Feedback) -> "Least":
        every = list(dict.fromkeys(train.answers() + held_out.answers()))
        values = dict(zip(every, rewards.least_logprobs(reference, every).tolist(), strict=True))
        trained = torch.tensor([values[answer] for answer in train.answers()], dtype=torch.float64)
        deviation = trained.std(correction=0).item()
        return cls(values, trained.mean().item(), deviation if deviation > 0 else 1.0)

    def standardised(self, encoded: Sequence[answers.Answer]) -> torch.Tensor:
        values_B = torch.tensor([self.values[answer] for answer in encoded], dtype=torch.float64)
        return (values_B - self.centre) / self.scale


def batch_loss(
    terms: RewardTerms,
    model: Any,
    pairs: Sequence[reward_data.Pair],
    thumbs: Sequence[reward_data.Thumb],
) -> torch.Tensor:
    """Weighted *sum* of the negative log-likelihoods, so that micro-batches add up to the step's loss."""
    every = reward_data.Feedback(tuple(pairs), tuple(thumbs)).answers()
    rewards_B = terms.of(model, every)
    paired_B, thumbed_B = rewards_B[: 2 * len(pairs)], rewards_B[2 * len(pairs) :]
    total = rewards_B.new_zeros(())
    if pairs:
        chosen_P, rejected_P = paired_B[0::2], paired_B[1::2]
        margins_P = torch.tensor([pair.margin for pair in pairs])
        nll_P = losses.bradley_terry_nll(chosen_P - rejected_P, margins_P)
        if not terms.has_thumbs:
            nll_P = nll_P + losses.centre_penalty(chosen_P, rejected_P)
        total = total + (nll_P * torch.tensor([pair.weight for pair in pairs])).sum()
    if thumbs:
        weights_P = torch.tensor([thumb.weight for thumb in thumbs])
        total = total + (terms.thumb_nll(thumbed_B, thumbs) * weights_P).sum()
    return total
