"""What a release is usually judged by, and what could be known at best: the peers of the release benchmark. Pure."""

import dataclasses
import math
import random
from collections.abc import Iterator

from trimtab.core import completions
from trimtab.rollout import simulation

# Two-sided 5 %, as a fixed-horizon test has it; nobody looks before so many votes in each arm.
_Z, _LEAST = 1.959963984540054, 30
# The weight of a canary that is ramped up: from the first share to the last in so many hours.
_RAMP, _RAMP_H = (0.05, 0.5), 72.0


@dataclasses.dataclass
class Counts:
    """Votes by hour of their arrival, as (up, all) of the stable arm and of the candidate."""

    hours: list[tuple[list[int], list[int]]] = dataclasses.field(default_factory=list)

    def add(self, at_h: float, candidate: bool, up: bool) -> None:
        hour = int(at_h)
        while len(self.hours) <= hour:
            self.hours.append(([0, 0], [0, 0]))
        tally = self.hours[hour][candidate]
        tally[0] += up
        tally[1] += 1

    def looks(self, until_h: float) -> Iterator[float]:
        """The z statistic of the pooled difference at every full hour, votes counted one by one."""
        stable, candidate = [0, 0], [0, 0]
        for of_stable, of_candidate in self.hours[: int(until_h)]:
            for total, new in ((stable, of_stable), (candidate, of_candidate)):
                total[0] += new[0]
                total[1] += new[1]
            if min(stable[1], candidate[1]) >= _LEAST:
                yield _z(stable, candidate)

    def verdict(self, until_h: float) -> int:
        """+1 promoted, -1 rolled back, 0 neither: by the first look that is significant."""
        return next(((1 if z > 0 else -1) for z in self.looks(until_h) if abs(z) > _Z), 0)


class Peeking:
    """An ordinary z-test on votes, looked at every hour; and pooled counts while the candidate's weight rises."""

    def __init__(self, seed: str) -> None:
        self._rng = random.Random(f"ramp/{seed}")
        self._even, self._ramped = Counts(), Counts()

    def saw(self, session: simulation.Session) -> None:
        """Policies that are alike would have been voted on alike in the other arm."""
        low, high = _RAMP
        weight = low + (high - low) * min(1.0, session.at_h / _RAMP_H)
        ramped = self._rng.random() < weight
        for age_h, up in session.votes:
            self._even.add(session.at_h + age_h, session.arm is completions.Arm.CANDIDATE, up)
            self._ramped.add(session.at_h + age_h, ramped, up)

    def verdicts(self, days: float) -> tuple[int, int]:
        """Of the even arms, and of the ramp."""
        return self._even.verdict(24 * days), self._ramped.verdict(24 * days)


def sprt(stable: float, candidate: float, error: float, rng: random.Random) -> int:
    """Votes on the candidate until Wald's test knows that the approvals are these and not both their mean.

    It is told both rates, which nobody knows: the least that can be needed. Both errors are `error`.
    """
    middle, bound = (stable + candidate) / 2, math.log((1 - error) / error)
    steps = [[math.log((1 - rate) / (1 - middle)), math.log(rate / middle)] for rate in (stable, candidate)]
    ratio, votes = 0.0, 0
    while abs(ratio) < bound:
        of_candidate = rng.random() < 0.5
        ratio += steps[of_candidate][rng.random() < (candidate if of_candidate else stable)]
        votes += of_candidate
    return votes


def _z(stable: list[int], candidate: list[int]) -> float:
    pooled = (stable[0] + candidate[0]) / (stable[1] + candidate[1])
    spread = pooled * (1 - pooled) * (1 / stable[1] + 1 / candidate[1])
    return (candidate[0] / candidate[1] - stable[0] / stable[1]) / math.sqrt(spread) if spread > 0 else 0.0
