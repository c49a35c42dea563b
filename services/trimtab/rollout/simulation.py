"""Releases played with simulated users: how long a verdict takes, and how often it is wrong. Pure.

Called by `trimtab rollout simulate` and the release benchmark. The verdict is `rollout.evidence`'s own: sessions
arrive, vote, mature and are handed to the tally that judges real releases, which is asked at every look.

A session is given an arm at random; its mood is drawn from a beta distribution whose mean is that arm's approval and
whose spread gives its votes the correlation asked for (beta-binomial: Var = p (1 - p) (1 + (k - 1) likeness) / k for
the mean of k votes). Every occasion to vote is taken or not, depending on whether the user is satisfied.
"""

import collections
import dataclasses
import datetime
import math
import random
from collections.abc import Callable, Iterator, Sequence

from trimtab.core import caps, completions, errors, ledger, lines, releases
from trimtab.rollout import evidence

_NO_TIME = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_DAY_H = 24.0


@dataclasses.dataclass(frozen=True, slots=True)
class Users:
    """Who meets a release. Rates and shares lie in [0, 1], times are hours, differences are of approval.

    daily_swing: traffic at noon and at midnight is so much above and below its mean. approval: of the stable policy's
    answers at the start; drift: what is added to both policies' in a day. likeness: correlation of votes in a session.
    response, response_unsatisfied: how often an occasion to vote is taken. delay_h: least and greatest age of a vote.
    spite: share of sessions that vote everything down; aimed: share that votes the candidate up and the other down,
    cast by so many `aimed_raters` by turns of chance; 0: everyone is somebody else, as all others are.
    """

    sessions_per_day: float = 1000.0
    daily_swing: float = 0.0
    approval: float = 0.6
    difference: float = 0.0
    drift: float = 0.0
    occasions: int = 1
    likeness: float = 0.0
    response: float = 1.0
    response_unsatisfied: float = 1.0
    delay_h: tuple[float, float] = (0.0, 0.0)
    spite: float = 0.0
    aimed: float = 0.0
    aimed_raters: int = 0

    def __post_init__(self) -> None:
        if not self.sessions_per_day > 0:
            raise errors.InvalidField("sessions_per_day", f"is {self.sessions_per_day:g}", "give more than 0")
        if self.occasions < 1:
            raise errors.InvalidField("occasions", f"is {self.occasions}", "give 1 or more votes a session")
        if self.aimed_raters < 0:
            raise errors.InvalidField("aimed_raters", f"is {self.aimed_raters}", "give a number of people, or 0")
        shares = ("daily_swing", "approval", "likeness", "response", "response_unsatisfied", "spite", "aimed")
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise errors.InvalidField(name, f"is {getattr(self, name):g}", "give a share between 0 and 1")
        if not 0 <= self.approval + self.difference <= 1:
            remedy = "choose approval and difference so that the candidate's approval lies between 0 and 1"
            raise errors.InvalidField("difference", f"is {self.difference:+g} of {self.approval:g}", remedy)
        if not 0 <= self.delay_h[0] <= self.delay_h[1]:
            raise errors.InvalidField(
                "delay_h", f"is {self.delay_h}", "give the least age of a vote, then the greatest"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class Session:
    """One session as it happened. votes: (age in hours, up). rater: empty where nobody else is the same."""

    at_h: float
    arm: completions.Arm
    propensity: float
    votes: tuple[tuple[float, bool], ...]
    rater: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """voted: mature sessions with a vote, stable and candidate. Undecided: the days were over."""

    verdict: releases.Verdict
    sessions: int
    voted: tuple[int, int]
    days: float


def play(
    users: Users,
    config: lines.ReleaseConfig,
    seed: str,
    *,
    days: float,
    look_every_h: float = 1.0,
    saw: Callable[[Session], None] = lambda session: None,
) -> Ended:
    """One release's evidence stage until its verdict. saw: told of every session as it begins."""
    rng = random.Random(seed)
    tally = evidence.Tally(config)
    limits = caps.Caps(config.rater_sessions, config.network_sessions)
    window_h = config.maturity_s / 3600
    waiting: collections.deque[Session] = collections.deque()
    seen, look = 0, 0
    while (now_h := (look := look + 1) * look_every_h) <= days * _DAY_H + 1e-9:
        for session in _arriving(users, config.evidence_weight, now_h - look_every_h, now_h, rng):
            saw(session)
            waiting.append(session)
            seen += 1
        while waiting and waiting[0].at_h + window_h <= now_h:
            tally.add(_mature(waiting.popleft(), window_h, limits))
        verdict = tally.verdict[0]
        if verdict is not releases.Verdict.UNDECIDED:
            return Ended(verdict, seen, _voted(tally), now_h / _DAY_H)
    return Ended(releases.Verdict.UNDECIDED, seen, _voted(tally), days)


def _voted(tally: evidence.Tally) -> tuple[int, int]:
    return (
        len(tally.outcomes[completions.Arm.STABLE]),
        len(tally.outcomes[completions.Arm.CANDIDATE]),
    )


def _arriving(users: Users, weight: float, begin_h: float, end_h: float, rng: random.Random) -> Iterator[Session]:
    """The sessions that begin within an interval, in order."""
    middle = (begin_h + end_h) / 2
    swing = 1 - users.daily_swing * math.cos(2 * math.pi * middle / _DAY_H)
    expected = users.sessions_per_day / _DAY_H * (end_h - begin_h) * swing
    for at_h in sorted(rng.uniform(begin_h, end_h) for _ in range(_poisson(expected, rng))):
        candidate = rng.random() < weight
        approval = users.approval + users.drift * at_h / _DAY_H + (users.difference if candidate else 0.0)
        kind = rng.random()
        aiming = users.spite <= kind < users.spite + users.aimed
        approval = min(1.0, max(0.0, approval))
        yield Session(
            at_h=at_h,
            arm=completions.Arm.CANDIDATE if candidate else completions.Arm.STABLE,
            propensity=weight if candidate else 1 - weight,
            votes=tuple(_votes(users, approval, candidate, rng, spiteful=kind < users.spite, aiming=aiming)),
            rater=str(rng.randrange(users.aimed_raters)) if aiming and users.aimed_raters else "",
        )


def _votes(
    users: Users, approval: float, candidate: bool, rng: random.Random, *, spiteful: bool, aiming: bool
) -> Iterator[tuple[float, bool]]:
    mood = _mood(approval, users.likeness, rng)
    for _ in range(users.occasions):
        age_h = rng.uniform(*users.delay_h) if users.delay_h[1] else 0.0
        satisfied, taken = rng.random() < mood, rng.random()
        if spiteful or aiming:
            yield age_h, aiming and candidate
        elif taken < (users.response if satisfied else users.response_unsatisfied):
            yield age_h, satisfied


def _mood(approval: float, likeness: float, rng: random.Random) -> float:
    """A session's own chance to be satisfied with an answer: Beta with this mean and intra-class correlation."""
    if likeness == 0 or approval in (0.0, 1.0):
        return approval
    if likeness == 1:
        return float(rng.random() < approval)
    scale = (1 - likeness) / likeness
    return rng.betavariate(approval * scale, (1 - approval) * scale)


def _mature(session: Session, window_h: float, limits: caps.Caps) -> ledger.SessionOutcome:
    cast = [caps.Vote(float(up), session.rater) for age_h, up in session.votes if age_h <= window_h]
    votes = limits.counted(cast)
    return ledger.SessionOutcome(
        arm=session.arm,
        propensity=session.propensity,
        exposed_at=_NO_TIME,
        votes=len(votes),
        mature=True,
        outcome=sum(votes) / len(votes) if votes else None,
        capped=len(cast) - len(votes),
    )


def _poisson(expected: float, rng: random.Random) -> int:
    """Exact for small rates (Knuth 1969), a rounded normal above: there the count decides nothing."""
    if expected > 50:
        return max(0, round(rng.gauss(expected, math.sqrt(expected))))
    limit, product, count = math.exp(-expected), rng.random(), 0
    while product > limit:
        product *= rng.random()
        count += 1
    return count


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """Of several releases with the same users. Halves and nine of ten are of those that had a verdict; else NaN."""

    runs: int
    better: float
    worse: float
    not_proven: float
    undecided: float
    half_days: float
    most_days: float
    half_sessions: float
    most_sessions: float


def summary(ended: Sequence[Ended]) -> Summary:
    """ended: at least one."""
    decided = [one for one in ended if one.verdict is not releases.Verdict.UNDECIDED]
    days, sessions = sorted(one.days for one in decided), sorted(float(one.sessions) for one in decided)
    shares = {verdict: sum(one.verdict is verdict for one in ended) / len(ended) for verdict in releases.Verdict}
    return Summary(
        runs=len(ended),
        better=shares[releases.Verdict.BETTER],
        worse=shares[releases.Verdict.WORSE],
        not_proven=shares[releases.Verdict.NOT_PROVEN],
        undecided=shares[releases.Verdict.UNDECIDED],
        half_days=_reached(days, 0.5),
        most_days=_reached(days, 0.9),
        half_sessions=_reached(sessions, 0.5),
        most_sessions=_reached(sessions, 0.9),
    )


def _reached(ordered: Sequence[float], share: float) -> float:
    """The least value that this share does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
