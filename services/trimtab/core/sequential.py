"""A confidence sequence for the difference between two arms that were assigned at random.

Called by `rollout.evidence`. Design-based: what is random is the assignment, not the users. The i-th unit was given
the candidate (A = 1) or the stable arm (A = 0), and the arm it was given had probability p_i. With c_i a centre that
depends on earlier units only,

    x_i = (A_i - (1 - A_i)) / p_i * (y_i - c_i)

has the i-th unit's own effect as its mean, whatever c_i is and however users drift. Then, at every t at once and
with probability 1 - alpha,

    |sum of x - sum of effects| < sqrt((S eta^2 + 1) / eta^2 * log((S eta^2 + 1) / alpha^2))
    S = sum of (x_i^2 + 2 v_i) / 3,  v_i = (y_i - c_i)^2 / (p_i (1 - p_i))

(the boundary is Robbins' normal mixture, as in Waudby-Smith et al. 2021, "Time-uniform central limit theory"; x_i as in
Ham, Bojinov, Lindon, Tingley 2022, "Design-based confidence sequences"). For arms that do not differ this is exact, at
every number of units and for any weights: x_i then has two values that the past and y_i fix, v_i is its variance, and
E exp(l x - l^2 (x^2 + 2 v) / 6) <= 1 for every l (Delyon 2009, "Exponential inequalities for sums of weakly dependent
variables"). For even arms v_i = x_i^2. Elsewhere it is asymptotic, and S an upper estimate as a rule.

A verdict reads one end at a time, so each end has an error of its own. The mixture over positive effects alone is the
one above times 2 Phi(z), with z = sum of x / sqrt(S + 1 / eta^2), and is at least 1 / error on its boundary. On the
boundary above z is at least sqrt(2 log(1 / alpha)), so with alpha = 2 error Phi(sqrt(2 log(1 / (2 error)))) each side
is crossed with probability `error` at most (Howard, Ramdas, McAuliffe, Sekhon 2021, "Time-uniform, nonparametric,
nonasymptotic confidence sequences", one-sided normal mixture).

t counts the units handed in. `rollout.evidence` hands in the sessions that voted: a session without a vote has
x = v = 0, so it changes neither sum nor S and hence not the sign of any bound, only the scale of the mean.
"""

import dataclasses
import functools
import math
import statistics
from collections.abc import Iterable

_NORMAL = statistics.NormalDist()


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """One randomised unit: the arm it was given, the probability of that arm, and its outcome."""

    candidate: bool
    propensity: float
    outcome: float


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """Candidate minus stable per unit; without end while there is nothing."""

    mean: float
    lower: float
    upper: float
    units: int
    # S above: what the radius is computed from.
    spread: float


@functools.cache
def _both_sides(error: float) -> float:
    """The alpha of the boundary on both sides that errs with this probability at most on each one."""
    if not 0 < error < 0.5:
        raise ValueError("the error of one end must lie in (0, 0.5)")
    return 2 * error * _NORMAL.cdf(math.sqrt(-2 * math.log(2 * error)))


def mixture_scale(error: float, tightest_at: float) -> float:
    """The eta that makes the boundary (nearly) tightest when S is `tightest_at`; fix it before looking."""
    if tightest_at <= 0:
        raise ValueError("`tightest_at` must lie above 0")
    odds = -2 * math.log(_both_sides(error))
    return math.sqrt((odds + math.log(odds + 1)) / tightest_at)


def radius(spread: float, units: int, error: float, eta: float) -> float:
    """How far an end lies from the mean after `units` units with S = `spread`."""
    if units == 0:
        return math.inf
    mixed = spread * eta * eta + 1
    return math.sqrt(mixed / (eta * eta) * math.log(mixed / _both_sides(error) ** 2)) / units


class Sequence:
    """The sequence as units arrive: `add` them in the order of their assignment, read `interval` at any time."""

    def __init__(self, lower_error: float, upper_error: float, tightest_at: float, centre: float = 0.5) -> None:
        """lower_error: chance that the lower end is ever above the truth; upper_error: the upper end below it.

        tightest_at: the S at which the interval shall be narrowest; centre: what outcomes are expected to be near. Fix
        both before looking.
        """
        self._expected = centre
        self._errors = (lower_error, upper_error)
        self._scales = (mixture_scale(lower_error, tightest_at), mixture_scale(upper_error, tightest_at))
        self._total = self._spread = self._outcomes = 0.0
        self._count = 0

    def add(self, unit: Unit) -> None:
        if not 0 < unit.propensity < 1:
            raise ValueError(f"a propensity of {unit.propensity} cannot have been drawn between two arms")
        # The centre is the mean of what came before, and of what was expected: predictable, hence without bias.
        deviation = unit.outcome - (self._outcomes + self._expected) / (self._count + 1)
        effect = deviation / unit.propensity
        variance = deviation * effect / (1 - unit.propensity)
        self._total += effect if unit.candidate else -effect
        self._spread += (effect * effect + 2 * variance) / 3
        self._outcomes += unit.outcome
        self._count += 1

    @property
    def interval(self) -> Interval:
        if self._count == 0:
            return Interval(mean=0.0, lower=-math.inf, upper=math.inf, units=0, spread=0.0)
        mean = self._total / self._count
        below, above = self.radii_at(self._count)
        return Interval(
            mean=mean,
            lower=mean - below,
            upper=mean + above,
            units=self._count,
            spread=self._spread,
        )

    def radii_at(self, units: int) -> tuple[float, float]:
        """How far the ends will lie from the mean after so many units, if S keeps growing as it has."""
        grown = self._spread * units / self._count if self._count else 0.0
        (lower, upper), (lower_eta, upper_eta) = self._errors, self._scales
        return radius(grown, units, lower, lower_eta), radius(grown, units, upper, upper_eta)


def difference(units: Iterable[Unit], error: float, tightest_at: float) -> Interval:
    """The interval after these units, in the order of their assignment; either end errs with this probability."""
    sequence = Sequence(error, error, tightest_at)
    for unit in units:
        sequence.add(unit)
    return sequence.interval
