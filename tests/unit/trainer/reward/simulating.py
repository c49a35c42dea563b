"""Raters whose rewards, slopes, cutpoints, ties and tempers are known, and what they say of texts.

A text is its number; as an `Answer` it is one token. Everything follows from the seed.
"""

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Sequence

import torch

from trimtab.modeling import answers
from trimtab.trainer import recipes
from trimtab.trainer.reward import convex, hub, labels, material

TEXTS, RATERS = 20, 24
SLOPE, INTERCEPT = 1.6, 0.4
SURFACES = {"chat": 0.3, "mail": -0.3}
STAR_SLOPE, CUTPOINTS = 0.7, (-2.0, -0.8, 0.5, 1.9)
NU, DELTA = 0.6, 0.4


class Crowd:
    """rewards: of the texts, about 0 on average and 1 in spread; tempers: b of the raters, spread 1/2."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        drawn = [self.rng.gauss(0, 1) for _ in range(TEXTS)]
        self.rewards = [reward - sum(drawn) / TEXTS for reward in drawn]
        self.tempers = [self.rng.gauss(0, 0.5) for _ in range(RATERS)]

    def say(self, count: int, one: Callable[[], labels.Label]) -> list[material.Item]:
        return [item_of(one()) for _ in range(count)]

    def pair(self) -> labels.Pair:
        one, other = self.rng.sample(range(TEXTS), 2)
        wins = self.rng.random() < sigmoid(self.rewards[one] - self.rewards[other])
        return labels.Pair(str(one), str(other)) if wins else labels.Pair(str(other), str(one))

    def pair_or_tie(self) -> labels.Pair:
        one, other = self.rng.sample(range(TEXTS), 2)
        half = (self.rewards[one] - self.rewards[other]) / 2
        [verdict] = self.rng.choices("wlt", (math.exp(half), math.exp(-half), NU))
        first, second = (other, one) if verdict == "l" else (one, other)
        return labels.Pair(str(first), str(second), tie=verdict == "t")

    def thumb(self) -> labels.Thumb:
        text, rater = self.rng.randrange(TEXTS), self.rng.randrange(RATERS)
        surface = self.rng.choice(list(SURFACES))
        logit = SLOPE * self.rewards[text] + INTERCEPT + SURFACES[surface] + self.tempers[rater]
        return labels.Thumb(str(text), self.rng.random() < sigmoid(logit), surface, f"r{rater}")

    def rating(self) -> labels.Rating:
        text = self.rng.randrange(TEXTS)
        draw = self.rng.random()
        stars = 1 + sum(draw > sigmoid(cut - STAR_SLOPE * self.rewards[text]) for cut in CUTPOINTS)
        return labels.Rating(str(text), stars, len(CUTPOINTS) + 1)

    def ranking(self) -> labels.Ranking:
        """Four of the texts; at each place two may tie."""
        left = self.rng.sample(range(TEXTS), 4)
        order: list[int] = []
        ranks: list[int] = []
        while left:
            choices = [(text,) for text in left] + list(itertools.combinations(left, 2))
            worths = [
                (DELTA if len(choice) == 2 else 1.0)
                * math.exp(sum(self.rewards[text] for text in choice) / len(choice))
                for choice in choices
            ]
            [chosen] = self.rng.choices(choices, worths)
            ranks += [len(order) + 1] * len(chosen)
            order += chosen
            left = [text for text in left if text not in chosen]
        return labels.Ranking(tuple(map(str, order)), tuple(ranks))


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def item_of(label: labels.Label) -> material.Item:
    return material.Item(label, tuple(answers.Answer((), (int(text),)) for text in label.texts))


@dataclasses.dataclass(frozen=True)
class Fit:
    """rewards: of the texts, moved to average 0. constant: what they were moved by."""

    rewards: list[float]
    constant: float
    terms: hub.RewardTerms

    def error(self, wanted: Sequence[float]) -> float:
        """Root of the mean squared difference."""
        return math.sqrt(sum((a - b) ** 2 for a, b in zip(self.rewards, wanted, strict=True)) / len(wanted))


def fitted(items: Sequence[material.Item]) -> Fit:
    """A free reward per text and all terms, by the loss and the priors of the reward hub."""
    feedback = material.Feedback(tuple(material.in_order(items)))
    terms = hub.RewardTerms(feedback, recipes.RewardSettings()).double()
    free = torch.zeros(TEXTS, dtype=torch.float64, requires_grad=True)
    places = torch.tensor([answer.response[0] for answer in feedback.answers()])
    convex.minimise(
        [free, *terms.parameters()], lambda: terms.loss(free[places], feedback.items) + terms.prior_penalty(), 80
    )
    constant = free.mean().item()
    return Fit([reward - constant for reward in free.tolist()], constant, terms)
