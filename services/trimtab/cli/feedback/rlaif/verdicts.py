"""From two replies to one verdict, and a judge's books: what was asked, what came of it, how far to trust it. Pure.

A judge that is asked the same pair in both orders and names the same answer twice has a verdict; one that names the
same place twice has none. How often it has one is its reliability; where people compared the same two answers, how
often they agree with it is its validity.
"""

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any, TypeVar

from trimtab.cli.feedback.rlaif.questions import Opinion, Preference
from trimtab.core import feedback, statistics, text

_Said = TypeVar("_Said", Preference, Opinion)


class Outcome(enum.StrEnum):
    """Of one pair, or of one answer and what was written about it.

    CONFLICT: an earlier run sent another verdict on it, which stands. REFUSED: by the platform.
    """

    KNOWN = "known"
    UNREADABLE = "unreadable"
    INCONSISTENT = "inconsistent"
    SENT = "sent"
    CONFLICT = "conflict"
    REFUSED = "refused"


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """preference: by the judge, where it has one; people: of those who compared the same answers, where they agree."""

    outcome: Outcome
    preference: Preference | Opinion | None = None
    people: Preference | Opinion | None = None
    shortened: bool = False
    why: str = ""


def agreed(in_order: _Said | None, turned_back: _Said | None) -> tuple[_Said | None, Outcome | None]:
    """The verdict, or why there is none. turned_back: the reply to the swapped pair, in terms of the first order."""
    if in_order is None or turned_back is None:
        return None, Outcome.UNREADABLE
    if in_order is not turned_back:
        return None, Outcome.INCONSISTENT
    return in_order, None


def of_comments(
    every: Sequence[tuple[Opinion | None, Outcome | None]],
) -> tuple[Opinion | None, Outcome | None]:
    """What the comments on one answer come to: what all of them say that say something, or why there is no verdict."""
    said = {opinion for opinion, _ in every if opinion is not None}
    if len(said) == 1:
        return said.pop(), None
    contradicts = bool(said) or any(problem is Outcome.INCONSISTENT for _, problem in every)
    return None, Outcome.INCONSISTENT if contradicts else Outcome.UNREADABLE


def vote_of(kind: feedback.Kind, first: text.ResponseRef, second: text.ResponseRef) -> Preference | None:
    """What one event says of the two; None where it does not compare them."""
    match kind:
        case feedback.Comparison() if {kind.preferred, kind.rejected} == {first, second}:
            if kind.tie:
                return Preference.TIE
            return Preference.FIRST if kind.preferred == first else Preference.SECOND
        case feedback.Ranking():
            ranks = {item.target: item.rank for item in kind.items}
            if first not in ranks or second not in ranks:
                return None
            if ranks[first] == ranks[second]:
                return Preference.TIE
            return Preference.FIRST if ranks[first] < ranks[second] else Preference.SECOND
        case _:
            return None


def of_people(votes: Sequence[Preference]) -> Preference | None:
    """What most of them said; a tie where as many said the one as the other; None where nobody did."""
    if not votes:
        return None
    balance = votes.count(Preference.FIRST) - votes.count(Preference.SECOND)
    if balance == 0:
        return Preference.TIE
    return Preference.FIRST if balance > 0 else Preference.SECOND


def of_thumbs(ups: Sequence[bool]) -> Opinion | None:
    """What most of them said; None where as many said the one as the other."""
    balance = 2 * sum(ups) - len(ups)
    return None if balance == 0 else Opinion.GOOD if balance > 0 else Opinion.BAD


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """With Wilson's 95 % interval; None of nothing."""

    share: float | None
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, hits: Sequence[bool]) -> "Share":
        low, high = statistics.wilson_interval(sum(hits), len(hits))
        return cls(sum(hits) / len(hits) if hits else None, low, high, len(hits))

    def in_words(self) -> str:
        return "-" if self.share is None else f"{self.share:.3f} [{self.low:.3f}, {self.high:.3f}] of {self.count:,}"


@dataclasses.dataclass(frozen=True, slots=True)
class Books:
    """pairs = known + unreadable + inconsistent + judged; judged = sent + conflicts + refused. ties: of the judged.

    Where comments are read, pairs are the answers that have some.
    """

    pairs: int
    known: int
    judged: int
    ties: int
    inconsistent: int
    unreadable: int
    sent: int
    conflicts: int
    refused: int
    shortened: int
    consistency: Share
    agreement_with_people: Share

    @classmethod
    def of(cls, every: Sequence[Judged]) -> "Books":
        """agreement_with_people: of pairs on which the judge and people both prefer one of the two."""

        def count(*outcomes: Outcome) -> int:
            return sum(one.outcome in outcomes for one in every)

        made = (Outcome.SENT, Outcome.CONFLICT, Outcome.REFUSED)
        decided = {Preference.FIRST, Preference.SECOND, Opinion.GOOD, Opinion.BAD}
        both = [one for one in every if one.preference in decided and one.people in decided]
        readable = [one for one in every if one.outcome in (*made, Outcome.INCONSISTENT)]
        return cls(
            pairs=len(every),
            known=count(Outcome.KNOWN),
            judged=count(*made),
            ties=sum(one.preference is Preference.TIE for one in every if one.outcome in made),
            inconsistent=count(Outcome.INCONSISTENT),
            unreadable=count(Outcome.UNREADABLE),
            sent=count(Outcome.SENT),
            conflicts=count(Outcome.CONFLICT),
            refused=count(Outcome.REFUSED),
            shortened=sum(one.shortened for one in every),
            consistency=Share.of([one.outcome in made for one in readable]),
            agreement_with_people=Share.of([one.preference is one.people for one in both]),
        )

    def document(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
