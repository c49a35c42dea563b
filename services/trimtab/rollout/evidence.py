"""The verdict on a candidate: what the ledger saw of its sessions, against the line's rule. Pure.

Called by `rollout.controller` at every look; the statistics are in `core.sequential`. The unit is the session; only
sessions of the evidence stage that have reached their age count, in both arms.

Rules, with (lower, upper) the confidence sequence of candidate minus stable per voting session:
- superior: better when lower > 0, worse when upper < 0;
- noninferior(margin): better (not worse by more than the margin) when lower > -margin, worse when upper < -margin;
- no verdict before `minimum_sessions` voting sessions in each arm;
- "better" is held back while the arms differ in *how many* sessions vote (a sequence of its own on the indicator of a
  vote): then those who voted are not comparable. Holding back can only lower the chance of a false promotion, so the
  line's alpha belongs to the verdict undivided;
- not proven at `maximum_sessions` voting sessions in both arms, or before when even the most favourable difference
  that the data allow could not be shown by then (futility).
"""

import dataclasses
import math

from trimtab.core import completions, ledger, lines, releases, sequential

_ARMS = (completions.Arm.STABLE, completions.Arm.CANDIDATE)


def judge(seen: ledger.EvidenceResponse, config: lines.ReleaseConfig) -> releases.Evidence:
    """Figures, verdict and its reason in a sentence."""
    mature = [session for session in seen.sessions if session.mature]
    voted = [session for session in mature if session.outcome is not None]
    arms = tuple(_arm(arm, seen, mature) for arm in _ARMS)
    effect = sequential.difference(map(_by_outcome, voted), config.alpha, _tightest_at(config))
    verdict, why = _decide(effect, arms, _response_gap(mature, config), config)
    return releases.Evidence(
        arms=arms,
        difference=effect.mean,
        lower=effect.lower,
        upper=effect.upper,
        alpha=config.alpha,
        verdict=verdict,
        reason=f"{_figures(arms, effect, config)}: {why}." if voted else f"No mature session has voted yet: {why}.",
        consumed=dict(seen.consumed),
    )


def _tightest_at(config: lines.ReleaseConfig) -> float:
    """With even arms x^2 is near 1 a session: tightest at four times the smallest number that can decide."""
    return max(1.0, 8.0 * config.minimum_sessions)


def _by_outcome(session: ledger.SessionOutcome) -> sequential.Unit:
    return sequential.Unit(
        candidate=session.arm is completions.Arm.CANDIDATE,
        propensity=session.propensity,
        outcome=0.0 if session.outcome is None else session.outcome,
    )


def _response_gap(mature: list[ledger.SessionOutcome], config: lines.ReleaseConfig) -> sequential.Interval:
    """The same sequence on the indicator "this session voted", over all mature sessions."""
    units = (
        dataclasses.replace(_by_outcome(session), outcome=0.0 if session.outcome is None else 1.0) for session in mature
    )
    return sequential.difference(units, config.alpha, _tightest_at(config))


def _arm(
    arm: completions.Arm, seen: ledger.EvidenceResponse, mature: list[ledger.SessionOutcome]
) -> releases.ArmEvidence:
    outcomes = [session.outcome for session in mature if session.arm is arm and session.outcome is not None]
    return releases.ArmEvidence(
        arm=arm,
        sessions=sum(session.arm is arm for session in seen.sessions),
        voted=len(outcomes),
        approval=math.fsum(outcomes) / len(outcomes) if outcomes else 0.0,
        completions=sum(total.completions for total in seen.totals if total.arm is arm),
        mature=sum(session.arm is arm for session in mature),
    )


def _decide(
    effect: sequential.Interval,
    arms: tuple[releases.ArmEvidence, ...],
    gap: sequential.Interval,
    config: lines.ReleaseConfig,
) -> tuple[releases.Verdict, str]:
    # "noninferior" moves the line that has to be cleared from 0 to -margin.
    goal = -config.margin if config.rule == "noninferior" else 0.0
    enough = min(arm.voted for arm in arms) >= config.minimum_sessions
    if enough and effect.upper < goal:
        return releases.Verdict.WORSE, f"all of it lies below {goal:+.2f}, so the candidate is worse"
    gapped = gap.lower > 0 or gap.upper < 0
    if enough and effect.lower > goal and not gapped:
        return releases.Verdict.BETTER, f"all of it lies above {goal:+.2f}, which proves the candidate"
    if effect.units >= config.maximum_sessions:
        return releases.Verdict.NOT_PROVEN, f"{config.maximum_sessions} voting sessions have not decided it"
    if enough and effect.upper - goal <= _radius_at_the_end(effect, config):
        return (
            releases.Verdict.NOT_PROVEN,
            f"even its upper end could not be shown within {config.maximum_sessions} voting sessions",
        )
    if not enough:
        return releases.Verdict.UNDECIDED, f"no verdict before {config.minimum_sessions} voting sessions in each arm"
    if gapped and effect.lower > goal:
        return releases.Verdict.UNDECIDED, f"the arms differ in how many sessions vote ({gap.mean:+.2f}), so it waits"
    return releases.Verdict.UNDECIDED, f"it holds {goal:+.2f} itself, so the release goes on"


def _radius_at_the_end(effect: sequential.Interval, config: lines.ReleaseConfig) -> float:
    """The half-width to expect at `maximum_sessions` if squares keep adding up as they have."""
    spread = effect.spread * config.maximum_sessions / effect.units
    eta = sequential.mixture_scale(config.alpha, _tightest_at(config))
    return sequential.radius(spread, config.maximum_sessions, config.alpha, eta)


def _figures(arms: tuple[releases.ArmEvidence, ...], effect: sequential.Interval, config: lines.ReleaseConfig) -> str:
    stable, candidate = arms
    return (
        f"Candidate approval {candidate.approval:.2f} against {stable.approval:.2f} over {effect.units} sessions; "
        f"difference {effect.mean:+.2f}, {100 * (1 - config.alpha):g} % confidence sequence "
        f"{effect.lower:+.2f} to {effect.upper:+.2f}"
    )
