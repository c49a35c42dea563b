"""The terms around a reward: how one kind of feedback follows from the rewards of the answers it is about.

One module a kind, each with its likelihood (`trainer.reward.likelihoods`), the prior of its terms and what it counts as
right. The reward hub fits them together with a model, `trainer.reward.baselines` together with weights of words.
Rewards come label by label, each with as many as it has texts (`rewards_B`, B answers); results are one a label (`_P`).
"""

import abc
import collections
import itertools
import math
from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from torch import nn

from trimtab.trainer.reward import convex, cutpoints, labels, likelihoods

_LOG_SLOPE_VARIANCE = 0.25
_LOG_TIES_VARIANCE = 4.0
_Label = TypeVar("_Label", bound=labels.Label)


class Terms(nn.Module, abc.ABC, Generic[_Label]):
    """The terms of one kind."""

    @abc.abstractmethod
    def nll(self, rewards_B: torch.Tensor, said: Sequence[_Label]) -> torch.Tensor:
        """nll_P: nats of what was said."""

    def penalty(self) -> torch.Tensor:
        """Negative log prior of the terms, up to a constant."""
        return torch.zeros(())

    def right(self, rewards_B: torch.Tensor, said: Sequence[_Label]) -> torch.Tensor | None:
        """right_P of the labels that can be right or wrong: 1, 0, or 1/2 where the rewards tie. All of a tie cannot."""
        return None

    def accuracy(
        self, rewards_B: torch.Tensor, said: Sequence[_Label], weights_P: torch.Tensor | None = None
    ) -> float | None:
        """Weighted mean of `right`; None where no label can be right or wrong. weights_P: of all labels."""
        right_P = self.right(rewards_B, said)
        if right_P is None or not len(right_P):
            return None
        if weights_P is None:
            return right_P.mean().item()
        of_P = weights_P[[label.verdict != "tie" for label in said]].to(right_P)
        return ((of_P * right_P).sum() / of_P.sum()).item()


class PairTerms(Terms[labels.Pair]):
    """Bradley-Terry; with ties among the labels it was made for Davidson, whose nu it learns.

    log nu ~ N(what makes ties as frequent as they are between equals, 4).
    """

    def __init__(self, said: Sequence[labels.Pair]) -> None:
        super().__init__()
        ties = sum(label.tie for label in said)
        self.log_nu: nn.Parameter | None = None
        if ties:
            share = min(ties / len(said), 0.99)
            self._centre = math.log(2 * share / (1 - share))
            self.log_nu = nn.Parameter(torch.tensor(self._centre))

    def nll(self, rewards_B: torch.Tensor, said: Sequence[labels.Pair]) -> torch.Tensor:
        return self.trained_nll(rewards_B, said)

    def trained_nll(
        self,
        rewards_B: torch.Tensor,
        said: Sequence[labels.Pair],
        margins_P: torch.Tensor | None = None,
        agreement: float = 1.0,
    ) -> torch.Tensor:
        """With margins and a soft label, which shape what is learned and not the probability."""
        gaps_P = _gaps(rewards_B)
        if self.log_nu is None:
            return likelihoods.bradley_terry_nll(gaps_P, margins_P, agreement)
        ties_P = torch.tensor([label.tie for label in said])
        return likelihoods.davidson_nll(gaps_P, ties_P, self.log_nu, margins_P, agreement)

    def penalty(self) -> torch.Tensor:
        if self.log_nu is None:
            return torch.zeros(())
        return (self.log_nu - self._centre).square() / (2 * _LOG_TIES_VARIANCE)

    def right(self, rewards_B: torch.Tensor, said: Sequence[labels.Pair]) -> torch.Tensor | None:
        return _is_above(_gaps(rewards_B)[[not label.tie for label in said]])


class ThumbTerms(Terms[labels.Thumb]):
    """P(up) = sigma(a r + c + b_surface + b_rater): log a ~ N(0, 1/4), each b ~ N(0, its deviation squared).

    A surface or rater that was not named here has b = 0: that of all others together.
    """

    def __init__(
        self,
        surfaces: Sequence[str] = (),
        raters: Sequence[str] = (),
        *,
        surface_deviation: float = 1.0,
        rater_deviation: float = 1.0,
        free_slope: bool = False,
    ) -> None:
        super().__init__()
        self.surface_numbers = {surface: number for number, surface in enumerate(surfaces)}
        self.rater_numbers = {rater: number for number, rater in enumerate(raters)}
        self._deviations = surface_deviation, rater_deviation
        self.log_slope = nn.Parameter(torch.zeros(()), requires_grad=free_slope)
        self.intercept = nn.Parameter(torch.zeros(()))
        self.surfaces = nn.Parameter(torch.zeros(max(1, len(surfaces))))
        self.raters = nn.Parameter(torch.zeros(max(1, len(raters))))

    def intercepts(self, said: Sequence[labels.Thumb]) -> torch.Tensor:
        """intercepts_P: c + b_surface + b_rater."""
        surfaces_P = _chosen(self.surfaces, [self.surface_numbers.get(label.surface, -1) for label in said])
        raters_P = _chosen(self.raters, [self.rater_numbers.get(label.rater, -1) for label in said])
        return self.intercept + surfaces_P + raters_P

    def nll(self, rewards_B: torch.Tensor, said: Sequence[labels.Thumb]) -> torch.Tensor:
        return likelihoods.thumb_nll(rewards_B, _ups(said), self.log_slope.exp(), self.intercepts(said))

    def penalty(self) -> torch.Tensor:
        of_surface, of_rater = self._deviations
        spread = self.surfaces.square().sum() / (2 * of_surface**2) + self.raters.square().sum() / (2 * of_rater**2)
        return _slope_penalty(self.log_slope) + spread

    def right(self, rewards_B: torch.Tensor, said: Sequence[labels.Thumb]) -> torch.Tensor | None:
        logits_P = self.log_slope.exp() * rewards_B + self.intercepts(said)
        return _is_above(torch.where(_ups(said), logits_P, -logits_P))


class ScaleTerms(nn.Module):
    """Of stars on one scale: a slope, log a ~ N(0, 1/4), and cutpoints."""

    def __init__(self, stars: Sequence[int], scale: int, free_slope: bool) -> None:
        super().__init__()
        self.register_buffer("begun", cutpoints.start(stars, scale).float())
        self.log_slope = nn.Parameter(torch.zeros(()), requires_grad=free_slope)
        self.shift = nn.Parameter(torch.zeros(()))
        self.log_widths = nn.Parameter(torch.zeros(scale - 2))

    def cutpoints(self) -> torch.Tensor:
        begun: torch.Tensor = self.begun  # type: ignore[assignment]  # torch types buffers as tensors or modules
        return cutpoints.moved(begun, self.shift, self.log_widths)

    def penalty(self) -> torch.Tensor:
        return _slope_penalty(self.log_slope) + cutpoints.penalty(self.log_widths)


class RatingTerms(Terms[labels.Rating]):
    """An ordered logit for each scale. fixed: the scale whose slope is 1, if any."""

    def __init__(self, said: Sequence[labels.Rating], *, free_slopes: bool = False, fixed: int | None = None) -> None:
        super().__init__()
        by_scale: dict[int, list[int]] = collections.defaultdict(list)
        for label in said:
            by_scale[label.scale].append(label.stars)
        self.scales: dict[int, ScaleTerms] = {
            scale: ScaleTerms(stars, scale, free_slopes and scale != fixed) for scale, stars in by_scale.items()
        }
        self._registered = nn.ModuleList(self.scales.values())

    def nll(self, rewards_B: torch.Tensor, said: Sequence[labels.Rating]) -> torch.Tensor:
        nll_P = rewards_B.new_zeros(len(said))
        for scale in sorted({label.scale for label in said}):
            places = torch.tensor([number for number, label in enumerate(said) if label.scale == scale])
            stars_P = torch.tensor([label.stars for label in said if label.scale == scale])
            terms = self.scales[scale]
            found_P = likelihoods.ordered_logit_nll(
                rewards_B[places], stars_P, terms.log_slope.exp(), terms.cutpoints()
            )
            nll_P = nll_P.index_put((places,), found_P.to(nll_P))
        return nll_P

    def penalty(self) -> torch.Tensor:
        return sum((terms.penalty() for terms in self.scales.values()), torch.zeros(()))


class RankingTerms(Terms[labels.Ranking]):
    """Plackett-Luce; with ties among the labels it was made for Davidson-Luce, whose deltas it learns.

    log delta_t ~ N(0, 4): delta_t = 1 where t equals tie as easily as one of them wins. They start where ties are as
    frequent as they are between equals.
    """

    def __init__(self, said: Sequence[labels.Ranking]) -> None:
        super().__init__()
        largest = max((label.largest_tie for label in said), default=1)
        self.log_deltas = nn.Parameter(torch.zeros(largest - 1))
        equals_B = torch.zeros(sum(len(label.texts) for label in said))
        convex.minimise([self.log_deltas], lambda: self.nll(equals_B, said).sum() + self.penalty())
        self.log_deltas.grad = None

    def nll(self, rewards_B: torch.Tensor, said: Sequence[labels.Ranking]) -> torch.Tensor:
        if not said:
            return rewards_B.new_zeros(0)
        longest = max(len(label.texts) for label in said)
        starts = itertools.accumulate((len(label.texts) for label in said), initial=0)
        # padding reads the first answer of the ranking again; rank 0 says that it is none
        places_P_K = [
            [start + (k if k < len(label.texts) else 0) for k in range(longest)]
            for label, start in zip(said, starts, strict=False)
        ]
        ranks_P_K = [[*label.ranks, *[0] * (longest - len(label.ranks))] for label in said]
        rewards_P_K = rewards_B[torch.tensor(places_P_K)]
        return likelihoods.plackett_luce_nll(rewards_P_K, torch.tensor(ranks_P_K), self.log_deltas)

    def penalty(self) -> torch.Tensor:
        return self.log_deltas.square().sum() / (2 * _LOG_TIES_VARIANCE)

    def right(self, rewards_B: torch.Tensor, said: Sequence[labels.Ranking]) -> torch.Tensor | None:
        """Of each ranking, the share of its ordered pairs that the rewards order alike (all tied: left out)."""
        shares = []
        for label, rewards_K in zip(said, torch.split(rewards_B, [len(label.texts) for label in said]), strict=True):
            ranks_K = torch.tensor(label.ranks)
            better_K_K = ranks_K.unsqueeze(1) < ranks_K.unsqueeze(0)
            if better_K_K.any():
                shares.append(_is_above((rewards_K.unsqueeze(1) - rewards_K.unsqueeze(0))[better_K_K]).mean())
        return torch.stack(shares) if shares else None


def _gaps(rewards_B: torch.Tensor) -> torch.Tensor:
    return rewards_B[0::2] - rewards_B[1::2]


def _ups(said: Sequence[labels.Thumb]) -> torch.Tensor:
    return torch.tensor([label.up for label in said])


def _chosen(values: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
    """values_P by number; 0 where the number is -1."""
    known_P = torch.tensor([number >= 0 for number in numbers])
    return torch.where(known_P, values[torch.tensor(numbers)], 0.0)


def _is_above(differences_P: torch.Tensor) -> torch.Tensor:
    return (differences_P > 0).double() + 0.5 * (differences_P == 0).double()


def _slope_penalty(log_slope: torch.Tensor) -> torch.Tensor:
    return log_slope.square() / (2 * _LOG_SLOPE_VARIANCE)
