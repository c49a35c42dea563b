"""The verdict on a candidate: what the ledger saw of its sessions, against the line's rule. Pure.

Called by `rollout.controller` at every look; the statistics are in `core.sequential`. The unit is the session; only
sessions of the evidence stage that have reached their age count, in both arms.

Rules, with (lower, upper) the confidence sequence of candidate minus stable per voting session:
- superior: better when lower > 0, worse when upper < 0;
- noninferior(margin): better (not worse by more than the margin) when lower > -margin, worse when upper < -margin;
- no verdict before `minimum_sessions` voting sessions in each arm;
- "better" is held back while the arms differ in *how many* sessions vote (a sequence of its own on the indicator of a
  vote): then those who voted are not comparable. Holding back can only lower the chance of a false promotion;
- not proven at `maximum_sessions` voting sessions in both arms, or before when even the most favourable difference
  that the data allow could not be shown by then (futility). A candidate on course to be shown worse goes on: only that
  verdict quarantines what it was made from.

`alpha` is the chance of a false promotion, and that of a false rollback. All of the first belongs to the lower end
here; of the second `VOTES_SHARE` to the upper end, and the rest to the guardrails (`rollout.guardrails`), which roll
back too. Nothing is "better" while a guardrail is not known to be fine.
"""

import datetime
import math
from collections.abc import Sequence

from trimtab.core import completions, ledger, lines, releases, sequential
from trimtab.rollout import guardrails, segments

VOTES_SHARE = 0.9
_EVIDENCE = releases.ReleaseState.EVIDENCE
_ARMS = (completions.Arm.STABLE, completions.Arm.CANDIDATE)


class Tally:
    """Sessions as they mature, and what they prove so far. Its user adds every session once, by first exposure.

    `judge` adds all of a release's at every look, `rollout.simulation` each as it matures: one code for both.
    """

    def __init__(self, config: lines.ReleaseConfig) -> None:
        self._config = config
        # "noninferior" moves the line that has to be cleared from 0 to -margin.
        self._goal = -config.margin if config.rule == "noninferior" else 0.0
        self._effect = sequential.Sequence(config.alpha, config.alpha * VOTES_SHARE, _tightest_at(config))
        self._response = sequential.Sequence(config.alpha, config.alpha, _tightest_at(config))
        self.mature = dict.fromkeys(_ARMS, 0)
        self.outcomes: dict[completions.Arm, list[float]] = {arm: [] for arm in _ARMS}

    def add(self, session: ledger.SessionOutcome) -> None:
        """The next mature session."""
        candidate = session.arm is completions.Arm.CANDIDATE
        self.mature[session.arm] += 1
        self._response.add(sequential.Unit(candidate, session.propensity, float(session.outcome is not None)))
        if session.outcome is not None:
            self._effect.add(sequential.Unit(candidate, session.propensity, session.outcome))
            self.outcomes[session.arm].append(session.outcome)

    @property
    def effect(self) -> sequential.Interval:
        return self._effect.interval

    @property
    def verdict(self) -> tuple[releases.Verdict, str]:
        """With the reason, as the end of a sentence."""
        effect, gap, goal, config = self.effect, self._response.interval, self._goal, self._config
        enough = min(map(len, self.outcomes.values())) >= config.minimum_sessions
        if enough and effect.upper < goal:
            return releases.Verdict.WORSE, f"all of it lies below {goal:+.2f}, so the candidate is worse"
        if enough and effect.lower > goal:
            return self._shown(f"all of it lies above {goal:+.2f}", gap)
        if effect.units >= config.maximum_sessions:
            return releases.Verdict.NOT_PROVEN, f"{config.maximum_sessions} voting sessions have not decided it"
        below, above = self._effect.radii_at(config.maximum_sessions)
        if enough and effect.upper - goal <= below and goal - effect.mean <= above:
            return (
                releases.Verdict.NOT_PROVEN,
                f"even its upper end could not be shown within {config.maximum_sessions} voting sessions",
            )
        if not enough:
            return (
                releases.Verdict.UNDECIDED,
                f"no verdict before {config.minimum_sessions} voting sessions in each arm",
            )
        return releases.Verdict.UNDECIDED, f"it holds {goal:+.2f} itself, so the release goes on"

    def _shown(self, why: str, gap: sequential.Interval) -> tuple[releases.Verdict, str]:
        """Better, unless the arms differ in how many sessions vote. gap: of the two shares that do."""
        if gap.lower <= 0 <= gap.upper:
            return releases.Verdict.BETTER, f"{why}, which proves the candidate"
        waits = f"{why}, but the arms differ in how many sessions vote ({gap.mean:+.2f})"
        if self.effect.units >= self._config.maximum_sessions:
            return releases.Verdict.NOT_PROVEN, f"{waits}, and {self._config.maximum_sessions} have voted"
        return releases.Verdict.UNDECIDED, f"{waits}, so it waits"


def judge(
    seen: ledger.EvidenceResponse, config: lines.ReleaseConfig, stage: releases.ReleaseState = _EVIDENCE
) -> releases.Evidence:
    """Figures, verdict and its reason in a sentence. stage: the release's, whose sessions the guardrails look at."""
    counted = [session for session in seen.sessions if session.stage == _EVIDENCE]
    tally = Tally(config)
    for session in counted:
        if session.mature:
            tally.add(session)
    # safety and evidence have sequences of their own, so each has half
    share = config.alpha * (1 - VOTES_SHARE) / 2
    guarded = guardrails.judge((one for one in seen.sessions if one.stage == stage), config.guardrails, share)
    arms = tuple(_arm(arm, counted, seen, tally) for arm in _ARMS)
    effect = tally.effect
    verdict, why = _guarded(*tally.verdict, effect, guarded, config)
    told = _figures(arms, effect, config) if effect.units else "No mature session has voted yet"
    return releases.Evidence(
        arms=arms,
        difference=effect.mean,
        lower=max(-1.0, effect.lower),
        upper=min(1.0, effect.upper),
        alpha=config.alpha,
        verdict=verdict,
        reason=f"{told}: {why}.",
        consumed=dict(seen.consumed),
        judged_at=seen.at,
        guardrails=guarded,
        capped=sum(session.capped for session in counted if session.mature),
        segments=segments.reported(counted),
        late=sum(session.late for session in counted),
    )


def course(
    seen: ledger.EvidenceResponse, config: lines.ReleaseConfig
) -> list[tuple[datetime.datetime, sequential.Interval]]:
    """The interval after each mature voting session, at the moment it became mature: how the verdict came about."""
    tally, found = Tally(config), []
    window = datetime.timedelta(seconds=config.maturity_s)
    for session in seen.sessions:
        if session.mature and session.stage == _EVIDENCE:
            tally.add(session)
            if session.outcome is not None:
                found.append((session.exposed_at + window, tally.effect))
    return found


def _guarded(
    verdict: releases.Verdict,
    why: str,
    effect: sequential.Interval,
    guarded: tuple[releases.Guardrail, ...],
    config: lines.ReleaseConfig,
) -> tuple[releases.Verdict, str]:
    """Nothing is "better" before every guardrail is known to be fine."""
    open_one = next((one for one in guarded if one.standing is not releases.Standing.FINE), None)
    if verdict is not releases.Verdict.BETTER or open_one is None:
        return verdict, why
    waits = f"{why}, but it is not known yet to keep within {guardrails.in_words(open_one)}"
    if effect.units >= config.maximum_sessions:
        return releases.Verdict.NOT_PROVEN, f"{waits}, and {config.maximum_sessions} sessions have voted"
    return releases.Verdict.UNDECIDED, f"{waits}, so it waits"


def _tightest_at(config: lines.ReleaseConfig) -> float:
    """With even arms x^2 is near 1 a session: tightest at eight times the smallest number that can decide."""
    return max(1.0, 16.0 * config.minimum_sessions)


def _arm(
    arm: completions.Arm, counted: Sequence[ledger.SessionOutcome], seen: ledger.EvidenceResponse, tally: Tally
) -> releases.ArmEvidence:
    outcomes = tally.outcomes[arm]
    return releases.ArmEvidence(
        arm=arm,
        sessions=sum(session.arm is arm for session in counted),
        voted=len(outcomes),
        approval=math.fsum(outcomes) / len(outcomes) if outcomes else 0.0,
        completions=sum(total.completions for total in seen.totals if total.arm is arm),
        mature=tally.mature[arm],
    )


def _figures(arms: tuple[releases.ArmEvidence, ...], effect: sequential.Interval, config: lines.ReleaseConfig) -> str:
    stable, candidate = arms
    return (
        f"Candidate approval {candidate.approval:.2f} against {stable.approval:.2f} over {effect.units} sessions; "
        f"difference {effect.mean:+.2f}, {100 * (1 - config.alpha):g} % sure of each end of "
        f"{max(-1.0, effect.lower):+.2f} to {min(1.0, effect.upper):+.2f}"
    )
