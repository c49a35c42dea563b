"""What a rater said of which texts, one class a kind of feedback that reward models learn from. Needs no torch.

Made by `trainer.reward.material`; their likelihoods are in `trainer.reward.terms`, the lines they are judged against
in `trainer.reward.baselines`.
"""

import collections
import dataclasses
from collections.abc import Hashable
from typing import Literal

Kind = Literal["pair", "edit", "thumb", "rating", "ranking"]
# In the order in which a batch holds them.
KINDS: tuple[Kind, ...] = ("pair", "edit", "thumb", "rating", "ranking")


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """Two answers, preferred first; of a tie in either order. edited: the first is a correction of the second."""

    chosen: str
    rejected: str
    tie: bool = False
    edited: bool = False

    @property
    def kind(self) -> Kind:
        return "edit" if self.edited else "pair"

    @property
    def texts(self) -> tuple[str, ...]:
        return self.chosen, self.rejected

    @property
    def verdict(self) -> Hashable:
        return "tie" if self.tie else self


@dataclasses.dataclass(frozen=True, slots=True)
class Thumb:
    """surface, rater: who gave it where; empty where that is not to matter."""

    response: str
    up: bool
    surface: str = ""
    rater: str = ""

    @property
    def kind(self) -> Kind:
        return "thumb"

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.response,)

    @property
    def verdict(self) -> Hashable:
        return self.up


@dataclasses.dataclass(frozen=True, slots=True)
class Rating:
    """stars: 1 to scale."""

    response: str
    stars: int
    scale: int

    @property
    def kind(self) -> Kind:
        return "rating"

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.response,)

    @property
    def verdict(self) -> Hashable:
        return self.stars


@dataclasses.dataclass(frozen=True, slots=True)
class Ranking:
    """Two or more answers, best first. ranks: rising, equal where they tie."""

    texts: tuple[str, ...]
    ranks: tuple[int, ...]

    @property
    def kind(self) -> Kind:
        return "ranking"

    @property
    def largest_tie(self) -> int:
        """The most answers that share a rank; 1 when none do."""
        return max(collections.Counter(self.ranks).values())

    @property
    def verdict(self) -> Hashable:
        return "tie" if len(set(self.ranks)) == 1 else self


# `verdict` tells the labels of a kind apart: where it is the same for all, they say nothing of one answer against
# another.
Label = Pair | Thumb | Rating | Ranking
