"""What a candidate must not make worse beside what users vote on. Pure.

Called by `rollout.evidence` at every look. The unit is the session and its value that of its first answer under the
release, which is known within seconds: no vote and no maturity are waited for. Each guardrail has a sequence of its own
(`core.sequential`) per stage, on

    shares      z = y for the candidate, y + limit for the stable policy: errors, refusals, repetition
    latency,    z = min(y / s, 10) for the candidate, (1 + limit) min(y / s, 10) for the stable policy,
    length      with s the mean of the values before it: predictable, so it biases nothing
    reward      z as of shares, y = sigma(m - r), with r the reward and m the mean of those before it in the stage, in
                both arms: by Bradley-Terry the chance that an average earlier answer would be preferred. The first
                has none before it, an unscored answer no reward (which is never zero): both are left out

whose difference is how far the candidate is beyond the limit. All of it above 0: breached, the release is rolled back.
All of it below 0: fine. Else unknown, which blocks a promotion and rolls nothing back. A breach of the reward says that
the answers are worse, so what the candidate was made from is quarantined; of the others none says that.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable

from trimtab.core import completions, ledger, lines, releases, sequential

Standing = releases.Standing
# Sessions in each arm before a guardrail says anything.
MINIMUM = 20
FALSELY_FINE = 0.05
# One long answer is so many mean ones at most: a heavy tail does not decide alone.
_CLIP = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class _Kind:
    """value: of a first answer, None where it has none. tightest_at: the S (`core.sequential`) to be decided at.

    near: what z is expected to be near; None: the limit. against_earlier: y is not the value, but how the values before
    it compare.
    """

    value: Callable[[ledger.FirstAnswer], float | None]
    relative: bool
    tightest_at: float
    near: float | None = None
    against_earlier: bool = False


def _answered(value: Callable[[ledger.FirstAnswer], float]) -> Callable[[ledger.FirstAnswer], float | None]:
    """Of answers: one that failed has neither length nor latency."""
    return lambda first: None if first.failed else value(first)


KINDS = {
    "errors": _Kind(lambda first: float(first.failed), relative=False, tightest_at=4.0),
    "latency": _Kind(_answered(lambda first: first.latency_s), relative=True, tightest_at=160.0, near=1.0),
    "length": _Kind(_answered(lambda first: first.tokens), relative=True, tightest_at=160.0, near=1.0),
    "refusals": _Kind(_answered(lambda first: first.refused), relative=False, tightest_at=16.0),
    "repetition": _Kind(_answered(lambda first: first.repeats), relative=False, tightest_at=16.0),
    "reward": _Kind(lambda first: first.reward, relative=False, tightest_at=16.0, near=0.5, against_earlier=True),
}
_REWARD = "reward"


def judge(
    sessions: Iterable[ledger.SessionOutcome], limits: lines.Guardrails, alpha: float
) -> tuple[releases.Guardrail, ...]:
    """Every guardrail on sessions of one stage, in order of exposure.

    alpha: chance of a false breach, of all of them together. That of a false "fine" is `FALSELY_FINE` of each.
    """
    seen = [session for session in sessions if session.first is not None]
    # a limit of 0: the terms are older than the guardrail
    judged = {name: kind for name, kind in KINDS.items() if getattr(limits, name) != 0}
    error = alpha / len(judged)
    return tuple(_judged(name, kind, seen, getattr(limits, name), error) for name, kind in judged.items())


def breached(found: Iterable[releases.Guardrail]) -> releases.Guardrail | None:
    """The first one; the reward before all others, since it says more."""
    broken = [one for one in found if one.standing is Standing.BREACHED]
    return next((one for one in broken if says_worse(one)), broken[0] if broken else None)


def says_worse(one: releases.Guardrail) -> bool:
    """Whether it is a breach that says that the answers are worse: by the reward, no other does."""
    return one.name == _REWARD and one.standing is Standing.BREACHED


def in_words(one: releases.Guardrail) -> str:
    """E.g. "length 41.2 against 20.1, at most 50 % more"."""
    if one.name == _REWARD:
        preferred = (
            f"an average earlier answer preferred to {one.candidate:.1%} of its answers against {one.stable:.1%}"
        )
        return f"reward ({preferred}), at most {one.limit:.1%} more"
    if KINDS[one.name].relative:
        return f"{one.name} {one.candidate:.3g} against {one.stable:.3g}, at most {one.limit:.0%} more"
    return f"{one.name} {one.candidate:.1%} against {one.stable:.1%}, at most {one.limit:.1%} more"


def _judged(
    name: str, kind: _Kind, seen: list[ledger.SessionOutcome], limit: float, error: float
) -> releases.Guardrail:
    values = [
        (session, value)
        for session in seen
        if session.first is not None and (value := kind.value(session.first)) is not None
    ]
    if kind.against_earlier:
        values = list(_against_earlier(values))
    by_arm = {arm: [value for session, value in values if session.arm is arm] for arm in completions.Arm}
    sequence = sequential.Sequence(
        error, FALSELY_FINE, kind.tightest_at, centre=min(limit, 1.0) if kind.near is None else kind.near
    )
    off = limit == float("inf")
    for unit in () if off else _units(values, kind, limit):
        sequence.add(unit)
    beyond = sequence.interval
    enough = min(map(len, by_arm.values())) >= MINIMUM
    standing = Standing.UNKNOWN
    if off or (enough and beyond.upper < 0):
        standing = Standing.FINE
    elif enough and beyond.lower > 0:
        standing = Standing.BREACHED
    return releases.Guardrail(
        name=name,
        stable=_mean(by_arm[completions.Arm.STABLE]),
        candidate=_mean(by_arm[completions.Arm.CANDIDATE]),
        limit=limit,
        sessions=len(values),
        beyond=beyond.mean,
        lower=beyond.lower,
        upper=beyond.upper,
        standing=standing,
    )


def _units(values: list[tuple[ledger.SessionOutcome, float]], kind: _Kind, limit: float) -> Iterable[sequential.Unit]:
    """Of relative ones, those before which there was anything to be relative to."""
    total = 0.0
    for count, (session, value) in enumerate(values):
        candidate = session.arm is completions.Arm.CANDIDATE
        if not kind.relative:
            yield sequential.Unit(candidate, session.propensity, value if candidate else value + limit)
        elif total > 0:
            scaled = min(value * count / total, _CLIP)
            yield sequential.Unit(candidate, session.propensity, scaled if candidate else (1 + limit) * scaled)
        total += value


def _against_earlier(
    values: Iterable[tuple[ledger.SessionOutcome, float]],
) -> Iterable[tuple[ledger.SessionOutcome, float]]:
    """sigma(m - r) of each reward r that is a number and has one before it, with m the mean of those."""
    rewards = [(session, reward) for session, reward in values if math.isfinite(reward)]
    totals = itertools.accumulate(reward for _, reward in rewards)
    for earlier, (total, (session, reward)) in enumerate(zip(totals, rewards[1:], strict=False), 1):
        yield session, _sigma(total / earlier - reward)


def _sigma(logit: float) -> float:
    """1 / (1 + exp(-logit)), of whatever size."""
    small = math.exp(-abs(logit))
    return 1 / (1 + small) if logit >= 0 else small / (1 + small)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
