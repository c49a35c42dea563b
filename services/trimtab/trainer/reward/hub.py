"""The reward hub: one scalar r per answer, one proper likelihood per kind of feedback, and the terms around r.

    pair      Bradley-Terry, -log sigma(r_1 - r_2 - margin), with a soft label; Davidson where raters may tie
    edit      a pair: the corrected answer over the one it corrects
    ranking   Plackett-Luce; Davidson-Luce where answers tie
    thumb     -log Bernoulli(up; sigma(a r + c + b_surface + b_rater))
    rating    ordered logit of the stars, with a slope a and cutpoints for each scale
    alone     only pairs, edits and rankings: + 0.01 (twice the mean of r)^2 fixes the constant of r

What fixes the scale of r has slope 1: pairs, edits and rankings where there are any, else thumbs, else the scale with
the most ratings. Every other slope is free, log a ~ N(0, 1/4). The priors of the other terms are in
`trainer.reward.terms`.

The optional surprise adds w (s - centre) / scale to r, s being the least log-probability of a token of the answer under
the frozen policy the reward model started from. A small reward model is at chance on whether a fact is right; the
policy's own doubt about a token is evidence of that, and w, learned from the feedback, says how much. It is part of the
reward for everyone who loads it (`modeling.rewards`), and off unless asked for.
"""

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from trimtab.modeling import answers, heads, rewards
from trimtab.trainer import recipes
from trimtab.trainer.reward import labels, likelihoods, material, terms

# A rater with fewer thumbs is one of all others: so few would only fit themselves.
RATER_MINIMUM = 5
_Label = TypeVar("_Label", bound=labels.Label)


class RewardTerms(nn.Module):
    """The terms of every kind and the weight of the surprise. made_for: the feedback they will be fitted to."""

    def __init__(
        self, made_for: material.Feedback, settings: recipes.RewardSettings, least: "Least | None" = None
    ) -> None:
        super().__init__()
        of: dict[labels.Kind, list[Any]] = collections.defaultdict(list)
        for item in made_for.items:
            of[item.label.kind].append(item.label)
        compares = bool(of["pair"] or of["edit"] or of["ranking"])
        most_rated = collections.Counter(label.scale for label in of["rating"]).most_common(1)
        self.only_compares = compares and not of["thumb"] and not of["rating"]
        self.least = least
        self._kinds: list[str] = [kind for kind in labels.KINDS if of[kind]]
        self._seen_until = max((item.occurred_at for item in made_for.items), default=0.0)
        self._agreement = settings.agreement
        self.surprise = nn.Parameter(torch.zeros(()), requires_grad=least is not None)
        self.pairs, self.edits = terms.PairTerms(of["pair"]), terms.PairTerms([])
        self.rankings = terms.RankingTerms(of["ranking"])
        self.thumbs = terms.ThumbTerms(
            material.names_by_count(label.surface for label in of["thumb"]),
            material.names_by_count((label.rater for label in of["thumb"] if label.rater), RATER_MINIMUM),
            surface_deviation=settings.surface_deviation,
            rater_deviation=settings.rater_deviation,
            free_slope=compares,
        )
        alone = most_rated[0][0] if most_rated and not compares and not of["thumb"] else None
        self.ratings = terms.RatingTerms(of["rating"], free_slopes=True, fixed=alone)

    def of(self, model: Any, encoded: Sequence[answers.Answer]) -> torch.Tensor:
        """rewards_B of answers, with gradients. On the CPU, where the terms and their labels are."""
        return self.added_to(heads.scores_at_last(model, encoded).cpu(), encoded)

    def added_to(self, scores_B: torch.Tensor, encoded: Sequence[answers.Answer]) -> torch.Tensor:
        """rewards_B: the head's scores of these answers with the surprise, where it is used."""
        if self.least is None:
            return scores_B
        return scores_B + self.surprise * self.least.standardised(encoded).to(scores_B)

    def of_kind(self, kind: labels.Kind) -> terms.Terms[Any]:
        by_kind: dict[labels.Kind, terms.Terms[Any]] = {
            "pair": self.pairs,
            "edit": self.edits,
            "thumb": self.thumbs,
            "rating": self.ratings,
            "ranking": self.rankings,
        }
        return by_kind[kind]

    def loss(
        self, rewards_B: torch.Tensor, items: Sequence[material.Item], shares_P: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Weighted *sum* over items in the order of `material.in_order`, so that micro-batches add up.

        rewards_B: of their answers in turn. What is learned from, with margins, soft labels and the centre term.
        shares_P: what the items' weights are multiplied by (a bootstrap's draws).
        """
        total = rewards_B.new_zeros(())
        start = first = 0
        for kind, group in itertools.groupby(items, key=lambda item: item.label.kind):
            members = list(group)
            end = start + sum(len(item.answers) for item in members)
            weights_P = torch.tensor([item.weight for item in members])
            if shares_P is not None:
                weights_P = weights_P * shares_P[first : first + len(members)]
            total = total + (self._loss_of_kind(kind, rewards_B[start:end], members) * weights_P).sum()
            start, first = end, first + len(members)
        return total

    def _loss_of_kind(self, kind: labels.Kind, rewards_B: torch.Tensor, items: Sequence[material.Item]) -> torch.Tensor:
        said = [item.label for item in items]
        of_kind = self.of_kind(kind)
        if isinstance(of_kind, terms.PairTerms):
            margins_P = torch.tensor([item.margin for item in items])
            agreement = self._agreement if kind == "pair" else 1.0
            loss_P = of_kind.trained_nll(rewards_B, said, margins_P, agreement)  # type: ignore[arg-type]
        else:
            loss_P = of_kind.nll(rewards_B, said)
        if not self.only_compares:
            return loss_P
        counts_P = torch.tensor([len(item.answers) for item in items])
        owners_B = torch.arange(len(items)).repeat_interleave(counts_P)
        means_P = rewards_B.new_zeros(len(items)).index_add(0, owners_B, rewards_B) / counts_P
        return loss_P + likelihoods.centre_penalty(means_P, means_P)

    def prior_penalty(self) -> torch.Tensor:
        """Negative log prior of all terms, up to a constant."""
        every = (self.pairs, self.rankings, self.thumbs, self.ratings)
        return sum((one.penalty() for one in every), torch.zeros(()))

    def hub(self) -> rewards.Hub:
        """The terms as they are saved beside the model. Those of raters are not: they are about people."""
        surprise = None
        if self.least is not None:
            surprise = rewards.Surprise(self.surprise.item(), self.least.centre, self.least.scale)
        numbers = self.thumbs.surface_numbers
        return rewards.Hub(
            slope=self.thumbs.log_slope.exp().item(),
            intercept=self.thumbs.intercept.item(),
            surfaces={name: self.thumbs.surfaces[number].item() for name, number in numbers.items()},
            surprise=surprise,
            ties=None if self.pairs.log_nu is None else self.pairs.log_nu.exp().item(),
            ranking_ties=self.rankings.log_deltas.exp().tolist(),
            stars={
                str(scale): rewards.Stars(of_scale.log_slope.exp().item(), of_scale.cutpoints().tolist())
                for scale, of_scale in sorted(self.ratings.scales.items())
            },
            kinds=self._kinds,
            seen_until=self._seen_until,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Least:
    """Surprise of known answers, looked up by their tokens; centre and scale are those of the training split."""

    values: Mapping[answers.Answer, float]
    centre: float
    scale: float

    @classmethod
    def of(cls, reference: Any, train: Sequence[answers.Answer], others: Sequence[answers.Answer]) -> "Least":
        every = list(dict.fromkeys((*train, *others)))
        values = dict(zip(every, rewards.least_logprobs(reference, every).tolist(), strict=True))
        trained = torch.tensor([values[answer] for answer in train], dtype=torch.float64)
        deviation = trained.std(correction=0).item()
        return cls(values, trained.mean().item(), deviation if deviation > 0 else 1.0)

    def standardised(self, encoded: Sequence[answers.Answer]) -> torch.Tensor:
        values_B = torch.tensor([self.values[answer] for answer in encoded], dtype=torch.float64)
        return (values_B - self.centre) / self.scale
