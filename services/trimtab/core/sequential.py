"""A confidence sequence for the difference between two arms that were assigned at random.

Called by `rollout.evidence`. Design-based: what is random is the assignment, not the users. The i-th unit was given
the candidate (A = 1) or the stable arm (A = 0), and the arm it was given had probability p_i. With c_i a centre that
depends on earlier units only,

    x_i = (A_i - (1 - A_i)) / p_i * (y_i - c_i)

has the i-th unit's own effect as its mean, whatever c_i is and however users drift. Then, at every t at once and
with probability 1 - alpha,

    |sum of x - sum of effects| < sqrt((S eta^2 + 1) / eta^2 * log((S eta^2 + 1) / alpha^2)),  S = sum of x_i^2

(Ham, Bojinov, Lindon, Tingley 2022, "Design-based confidence sequences", Theorem 2; the boundary is Robbins' normal
mixture as in Waudby-Smith et al. 2021, "Time-uniform central limit theory"). S is an upper estimate of the variance,
so the interval is wide rather than narrow. It is asymptotic in general; for even assignment and arms that do not
differ it is exact, because x_i is then plus or minus a number fixed by the past (cosh(a) <= exp(a^2/2)).

t counts the units handed in. `rollout.evidence` hands in the sessions that voted: a session without a vote has
x = 0, so it changes neither sum nor S and hence not the sign of any bound, only the scale of the mean.
"""

import dataclasses
import math
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """One randomised unit: the arm it was given, the probability of that arm, and its outcome in [0, 1]."""

    candidate: bool
    propensity: float
    outcome: float


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """Candidate minus stable per unit. (-1, 1) around 0 while there is nothing; bounds stay within [-1, 1]."""

    mean: float
    lower: float
    upper: float
    units: int
    # Sum of squares: what the radius is computed from.
    spread: float


def mixture_scale(alpha: float, tightest_at: float) -> float:
    """The eta that makes the boundary (nearly) tightest when S is `tightest_at`; fix it before looking."""
    if not 0 < alpha < 1 or tightest_at <= 0:
        raise ValueError("alpha must lie in (0, 1) and `tightest_at` above 0")
    odds = -2 * math.log(alpha)
    return math.sqrt((odds + math.log(odds + 1)) / tightest_at)


def radius(spread: float, units: int, alpha: float, eta: float) -> float:
    """Half the width of the sequence after `units` units whose squares sum to `spread`."""
    if units == 0:
        return math.inf
    mixed = spread * eta * eta + 1
    return math.sqrt(mixed / (eta * eta) * math.log(mixed / (alpha * alpha))) / units


def difference(units: Iterable[Unit], alpha: float, tightest_at: float) -> Interval:
    """The sequence's interval after these units, which must be in the order of their assignment."""
    total = squares = outcomes = 0.0
    count = 0
    for unit in units:
        if not 0 < unit.propensity <= 1:
            raise ValueError(f"a propensity of {unit.propensity} cannot have been drawn")
        # The centre starts at 0.5 and is the mean of what came before: predictable, hence without bias.
        centre = (outcomes + 0.5) / (count + 1)
        effect = (unit.outcome - centre) / unit.propensity
        total += effect if unit.candidate else -effect
        squares += effect * effect
        outcomes += unit.outcome
        count += 1
    if count == 0:
        return Interval(mean=0.0, lower=-1.0, upper=1.0, units=0, spread=0.0)
    mean = total / count
    half = radius(squares, count, alpha, mixture_scale(alpha, tightest_at))
    return Interval(mean=mean, lower=max(-1.0, mean - half), upper=min(1.0, mean + half), units=count, spread=squares)
