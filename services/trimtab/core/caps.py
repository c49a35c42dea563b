"""Whose votes count: a rater's, and a network's, in so many sessions of a release, the first by exposure. Pure.

Called by `ledger.evidence` on what was recorded and by `rollout.simulation` on what was played: one rule for both.

Sessions are gone through in order of first exposure. A vote counts unless its rater already has votes that count in
`rater_sessions` earlier sessions of the release, or its network in `network_sessions`; within a session all votes of
one rater from one network count alike. A rater or a network that is not named (empty) has no limit.

Whether a session's vote counts follows from who cast it and from sessions that were exposed before, and not from the
arm it was given: the rule is blind to the arm and predictable, so what a session that is left silent would have shown
is the same for both arms, and the confidence sequence stays valid (as long as sessions do not influence each other,
which it assumes anyway). A session that matures later than another was exposed later, so nothing that was counted is
ever counted differently.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Vote:
    """outcome: in [0, 1]. rater, network: keyed hashes, or any other names; empty means that nobody said."""

    outcome: float
    rater: str = ""
    network: str = ""


class Caps:
    """Of one release. Its user hands in every session once, in order of first exposure."""

    def __init__(self, rater_sessions: float, network_sessions: float) -> None:
        """Sessions, 1 or more; infinite, or 0 as in records older than the limits: no limit."""
        self._most = (rater_sessions or math.inf, network_sessions or math.inf)
        self._used: collections.Counter[tuple[int, str]] = collections.Counter()

    def counted(self, votes: Sequence[Vote]) -> list[float]:
        """The outcomes of the next session's votes that count, in the order given."""
        counting = [vote for vote in votes if all(self._used[one] < self._most[one[0]] for one in _named(vote))]
        self._used.update({one for vote in counting for one in _named(vote)})
        return [vote.outcome for vote in counting]


def _named(vote: Vote) -> list[tuple[int, str]]:
    """Who is behind a vote, as far as it says: (0, rater), (1, network)."""
    return [(kind, name) for kind, name in enumerate((vote.rater, vote.network)) if name]
