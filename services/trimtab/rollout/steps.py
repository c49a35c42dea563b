"""What a release does next: a pure function of its record and of what was seen. No clock, no network.

Called by `rollout.controller` at every look, for the line's active release. The controller appends what `step` returns
and only then acts on it, so a controller that died anywhere continues from the record.

    verifying -> safety -> evidence -> promoting -> promoted         (an adoption: verifying -> promoted)
                              |-> rolling back -> rolled back        "worse", a guardrail, an operator's undo
                              |-> not proven                         withdrawn, by the verdict or an operator
    any before promoted -> failed                                    technical: it says nothing about the answers

The safety stage waits until the candidate has answered `safety_completions` requests: its process must stay up and
report the verified digest, and no guardrail may be breached. A breach in either stage rolls back.
"""

import dataclasses
import datetime

from trimtab.core import completions, ledger, lines, releases
from trimtab.rollout import backend, evidence, guardrails, line

State = releases.ReleaseState
UNHEALTHY_FOR_S = 30.0
RESTARTS = 3
# What a release waits for is said on its record when it has waited so long.
SAID_AFTER_S = 10.0
# Between weight 0 and the end of the candidate's process: what is in flight ends first.
SETTLE_S = 2.0
# Figures of an open verdict are written anew once they are so old, as a share of the stage's age: a release of a month
# has some thousands of records, not one for each of its sessions.
FIGURES_AGE = 0.005


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """One look. process and described are those of `subject`; described is None when it did not answer.

    expected_digest: of the subject's manifest. problem: a sentence that ends the release (no such artifact).
    unhealthy_s: for how long it has not answered. evidence: None when not asked for, or the ledger is away.
    led_to: what is put in quarantine when it ends; of a release that was found worse.
    """

    now: datetime.datetime
    process: backend.ProcessStatus
    described: completions.DescribeResponse | None
    expected_digest: str
    problem: str = ""
    unhealthy_s: float = 0.0
    evidence: ledger.EvidenceResponse | None = None
    led_to: releases.Quarantine | None = None


def subject(release: releases.Release) -> str:
    """The policy a release waits for: its candidate; when a promotion is undone, the one to go back to."""
    return release.stable_id if line.is_undo(release) else release.candidate_id


def found_worse(release: releases.Release) -> bool:
    """Whether it is on its way out because of votes or reward; an operator's undo says nothing about those."""
    found = release.evidence
    worse = found is not None and (
        found.verdict is releases.Verdict.WORSE or any(map(guardrails.says_worse, found.guardrails))
    )
    return worse and release.state is State.ROLLING_BACK and not line.is_undo(release)


def begin(release: releases.Release, serving: line.Line, at: datetime.datetime) -> releases.Release:
    """A waiting release's turn: its candidate takes the second slot, without traffic."""
    candidate = releases.ArmTarget(arm=line.CANDIDATE, policy_id=release.candidate_id)
    release = dataclasses.replace(serving.beside(release), stable_id=serving.stable_id)
    return line.moved(
        release, State.VERIFYING, "Its processes are started.", at, arms=line.split(serving.stable, candidate)
    )


def step(release: releases.Release, seen: Seen, terms: lines.ReleaseConfig) -> releases.Release:
    """The release's next record by its terms, or the same one when nothing changes that is worth a record."""
    after = _next(release, seen, terms)
    if after.state is release.state:
        after = _waiting(after, seen)
    return release if _only_newer_figures(release, after, seen.now) else after


def _waiting(release: releases.Release, seen: Seen) -> releases.Release:
    """With what it waits for, once that has taken a while."""
    answers = seen.described is not None
    comes_up = release.state in {State.VERIFYING, State.PROMOTING} or line.is_undo(release)
    there = answers and (seen.process.complete or not comes_up)
    since_s = (seen.now - release.history[-1].at).total_seconds() if comes_up else seen.unhealthy_s
    if there or (release.state is State.ROLLING_BACK and not line.is_undo(release)):
        words = ""
    elif since_s < SAID_AFTER_S:
        return release
    else:
        words = seen.process.problem or "Its processes do not answer."
    return release if words == release.waits_for else dataclasses.replace(release, waits_for=words)


def _only_newer_figures(before: releases.Release, after: releases.Release, now: datetime.datetime) -> bool:
    """Whether nothing but the figures of an open verdict has moved, and those on record are not old yet."""
    old, new = before.evidence, after.evidence
    if old is None or new is None or old.judged_at is None or dataclasses.replace(after, evidence=old) != before:
        return False
    if (old.verdict, _standings(old)) != (new.verdict, _standings(new)):
        return False
    # a clock that went back would keep them forever
    return abs(now - old.judged_at) < FIGURES_AGE * (now - before.history[-1].at)


def _standings(found: releases.Evidence) -> list[releases.Standing]:
    return [one.standing for one in found.guardrails]


def _next(release: releases.Release, seen: Seen, terms: lines.ReleaseConfig) -> releases.Release:
    problem = _technical_problem(release, seen, terms)
    if problem:
        return _fail(release, problem, seen)
    match release.state:
        case State.VERIFYING:
            return _verify(release, seen, terms)
        case State.SAFETY:
            return _look_for_safety(release, seen, terms)
        case State.EVIDENCE:
            return _look_for_evidence(release, seen, terms)
        case State.PROMOTING:
            return _promote(release, seen)
        case State.ROLLING_BACK:
            return _roll_back(release, seen)
        case _:
            return release


def _technical_problem(release: releases.Release, seen: Seen, terms: lines.ReleaseConfig) -> str:
    if release.state is State.ROLLING_BACK and not line.is_undo(release):
        return ""  # the candidate is on its way out, whatever it does
    if seen.problem:
        return seen.problem
    if seen.process.restarts >= RESTARTS:
        return f"Its process ended {seen.process.restarts} times: {seen.process.problem or 'it is up again'}."
    if seen.described is not None and (wrong := wrong_bytes(subject(release), seen.described, seen.expected_digest)):
        return wrong
    comes_up = release.state is State.VERIFYING or line.is_undo(release)
    if comes_up or (release.state is State.PROMOTING and seen.described is not None):
        return "" if seen.described is not None and seen.process.complete else _late(release, seen, terms)
    if seen.described is None and seen.unhealthy_s > UNHEALTHY_FOR_S:
        return f"It has not answered for {seen.unhealthy_s:.0f} s: {seen.process.problem or 'no answer'}."
    return ""


def _late(release: releases.Release, seen: Seen, terms: lines.ReleaseConfig) -> str:
    """A sentence once all of its processes should have been up."""
    began = release.history[-1].at if release.history else release.created_at
    within = terms.ready_within_s or lines.READY_WITHIN_S  # records older than the setting have 0
    if (seen.now - began).total_seconds() <= within:
        return ""
    return f"It was not ready within {within:.0f} s: {seen.process.problem or 'no answer'}."


def wrong_bytes(policy_id: str, described: completions.DescribeResponse, expected: str) -> str:
    """A sentence about a process that is not what it should be; empty about one that is."""
    if described.policy_id != policy_id:
        return f"Its process serves policy {described.policy_id!r} instead of {policy_id!r}."
    if described.loaded_digest != expected:
        return f"Its process loaded bytes with digest {described.loaded_digest!r}; its manifest says {expected!r}."
    return ""


def _fail(release: releases.Release, problem: str, seen: Seen) -> releases.Release:
    if line.is_undo(release):
        return line.moved(release, State.PROMOTED, f"The undo failed. {problem}", seen.now)
    return line.moved(release, State.FAILED, problem, seen.now, arms=_stable_only(release))


def _stable_only(release: releases.Release) -> tuple[releases.ArmTarget, ...]:
    return line.split(line.arm(release.arms, line.STABLE), None)


def _verify(release: releases.Release, seen: Seen, terms: lines.ReleaseConfig) -> releases.Release:
    if seen.described is None or not seen.process.complete:
        return release
    verified = dataclasses.replace(release, arms=_with_candidate(release, seen))
    if line.is_adoption(release):
        adopted = dataclasses.replace(verified, anchor_id=release.candidate_id)
        arms = _swapped(verified)
        return line.moved(adopted, State.PROMOTED, "Adopted and verified: it is the anchor.", seen.now, arms=arms)
    if release.paused:
        return release
    arms = line.split(*_targets(verified), terms.safety_weight)
    return line.moved(verified, State.SAFETY, "Its process loaded what its manifest says.", seen.now, arms=arms)


def _with_candidate(release: releases.Release, seen: Seen) -> tuple[releases.ArmTarget, ...]:
    """The arms with the subject's address and digest as verified now."""
    return tuple(
        dataclasses.replace(target, address=seen.process.address, loaded_digest=seen.expected_digest)
        if target.arm is line.CANDIDATE
        else target
        for target in release.arms
    )


def _targets(release: releases.Release) -> tuple[releases.ArmTarget | None, releases.ArmTarget | None]:
    return line.arm(release.arms, line.STABLE), line.arm(release.arms, line.CANDIDATE)


def _swapped(release: releases.Release) -> tuple[releases.ArmTarget, ...]:
    """Roles swapped: the candidate serves everybody, what served is kept beside it, without traffic."""
    stable, candidate = _targets(release)
    same = stable is not None and candidate is not None and stable.policy_id == candidate.policy_id
    return line.split(candidate, None if same else stable)


def _look_for_safety(release: releases.Release, seen: Seen, terms: lines.ReleaseConfig) -> releases.Release:
    if seen.evidence is None or seen.described is None:
        return release
    release = _with_evidence(release, evidence.judge(seen.evidence, terms, State.SAFETY))
    answered = sum(total.completions for total in seen.evidence.totals if total.arm is line.CANDIDATE)
    if (broken := _broken(release, seen)) is not None:
        return broken
    if release.paused:
        return release
    if answered < terms.safety_completions:
        return _overdue(release, seen, terms) or release
    arms = line.split(*_targets(release), terms.evidence_weight)
    # figures of the stage that begins, so that a record that says so is judged as one of it
    started = _with_evidence(
        dataclasses.replace(release, evidence_started_at=seen.now), evidence.judge(seen.evidence, terms)
    )
    reason = f"It stayed up over {answered} completions, and no guardrail is breached."
    return line.moved(started, State.EVIDENCE, reason, seen.now, arms=arms)


def _look_for_evidence(release: releases.Release, seen: Seen, terms: lines.ReleaseConfig) -> releases.Release:
    if seen.evidence is None:
        return release
    found = evidence.judge(seen.evidence, terms)
    release = _with_evidence(release, found)
    if found.verdict is releases.Verdict.WORSE:
        return line.moved(release, State.ROLLING_BACK, found.reason, seen.now, arms=line.split(*_targets(release)))
    if (broken := _broken(release, seen)) is not None:
        return broken
    match found.verdict:
        case releases.Verdict.BETTER if not release.paused:
            return line.moved(release, State.PROMOTING, found.reason, seen.now)
        case releases.Verdict.NOT_PROVEN if not release.paused:
            return line.moved(release, State.NOT_PROVEN, found.reason, seen.now, arms=_stable_only(release))
        case _:
            return (None if release.paused else _overdue(release, seen, terms)) or release


def _overdue(release: releases.Release, seen: Seen, terms: lines.ReleaseConfig) -> releases.Release | None:
    """Ended for want of traffic or of votes: others may wait for their turn."""
    begun = next((move.at for move in release.history if move.to_state is State.SAFETY), release.created_at)
    if (seen.now - begun).total_seconds() < terms.maximum_days * 86_400 or release.evidence is None:
        return None
    reason = f"{terms.maximum_days:g} days have not decided it. {release.evidence.reason}"
    return line.moved(release, State.NOT_PROVEN, reason, seen.now, arms=_stable_only(release))


def _broken(release: releases.Release, seen: Seen) -> releases.Release | None:
    """On its way out for a guardrail, also when paused. Only the reward says anything about what it was made from."""
    one = guardrails.breached(release.evidence.guardrails) if release.evidence else None
    if one is None:
        return None
    so = ", so the candidate is worse" if guardrails.says_worse(one) else ""
    reason = f"A guardrail is breached over {one.sessions} sessions: {guardrails.in_words(one)}{so}."
    return line.moved(release, State.ROLLING_BACK, reason, seen.now, arms=line.split(*_targets(release)))


def _with_evidence(release: releases.Release, found: releases.Evidence) -> releases.Release:
    """The release with newer figures; the same record when only the log's offsets and the time have moved."""
    before = release.evidence
    if before and found == dataclasses.replace(before, consumed=found.consumed, judged_at=found.judged_at):
        return release
    return dataclasses.replace(release, evidence=found)


def _promote(release: releases.Release, seen: Seen) -> releases.Release:
    if seen.described is None or not seen.process.complete:
        return release
    verified = dataclasses.replace(release, arms=_with_candidate(release, seen))
    return line.moved(verified, State.PROMOTED, release.history[-1].reason, seen.now, arms=_swapped(verified))


def _roll_back(release: releases.Release, seen: Seen) -> releases.Release:
    reason = release.history[-1].reason
    if not line.is_undo(release):
        settled = (seen.now - release.history[-1].at).total_seconds() >= SETTLE_S
        if seen.led_to is not None:
            reason = f"{reason} {seen.led_to.summary}"
        done = line.moved(release, State.ROLLED_BACK, reason, seen.now, arms=_stable_only(release))
        return dataclasses.replace(done, quarantine=seen.led_to) if settled else release
    if seen.described is None or not seen.process.complete:
        return release
    verified = dataclasses.replace(release, arms=_with_candidate(release, seen))
    return line.moved(verified, State.ROLLED_BACK, reason, seen.now, arms=_swapped(verified))
