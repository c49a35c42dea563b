"""Rules: how a run went, step by step."""

import math
import statistics

from trimtab.trainer.judging.symptoms import evidence

_SCALE_FACTOR, _FAR_SCORE = 3.0, 6.0


def reward_scale_drift(of: evidence.Evidence) -> evidence.Finding | None:
    """The reward's scale is not the one that beta was chosen for."""
    spread, score = evidence.trend(of.series("score_deviation")), evidence.trend(of.series("score"))
    seen = ""
    if spread is not None and spread.first > 0 and spread.sigmas > evidence.SIGMAS:
        factor = spread.last / spread.first
        if factor > _SCALE_FACTOR or factor < 1 / _SCALE_FACTOR:
            seen = f"The scores' standard deviation went from {spread.first:.3g} to {spread.last:.3g}."
    if not seen and score is not None and abs(score.change) > _FAR_SCORE and score.sigmas > evidence.SIGMAS:
        seen = f"The mean score went from {score.first:.3g} to {score.last:.3g}, in log-odds of a comparison."
    if not seen:
        return None
    return evidence.Finding(
        "reward scale drift",
        seen,
        "The KL weighs a fixed beta per nat: against a reward on another scale it is another price. Scores that far "
        "from where they began are far from what the reward model was trained on.",
        f"Train the reward model on this policy's answers, or set `kl_target` so that {evidence.setting(of, 'beta')} "
        "follows.",
    )


_COLLAPSED_NATS, _COLLAPSED_SHARE = 0.05, 0.25


def entropy_collapse(of: evidence.Evidence) -> evidence.Finding | None:
    """The policy says the same each time."""
    told = evidence.trend(of.series("entropy_nats_per_token"))
    if told is None or told.last > _COLLAPSED_NATS or told.last > _COLLAPSED_SHARE * told.first:
        return None
    return evidence.Finding(
        "entropy collapse",
        f"Entropy fell from {told.first:.3f} to {told.last:.3f} nats a token.",
        "Answers to one prompt are alike, so there is nothing left to compare and to learn from.",
        f"Raise {evidence.setting(of, 'beta')}, lower {evidence.setting(of, 'lr')}, or end the run earlier.",
    )


_STALE_SHARE, _LOW_SAMPLE = 0.5, 0.5


def stale_rollouts(of: evidence.Evidence) -> evidence.Finding | None:
    """Answers come from a policy that the one in training has left behind."""
    age, allowed = of.series("staleness"), of.settings.get("max_staleness", 0)
    share = of.series("effective_sample_share")
    dropped, kept = sum(of.series("dropped")), sum(of.series("answers"))
    if dropped > _STALE_SHARE * (dropped + kept):
        seen = f"{dropped:.0f} answers were dropped beside {kept:.0f} that were used."
    elif age and allowed and statistics.fmean(age) > _STALE_SHARE * allowed:
        seen = f"Answers were {statistics.fmean(age):.1f} policy versions old on average; {allowed} are allowed."
    elif share and statistics.fmean(share) < _LOW_SAMPLE:
        seen = f"After importance weighting the answers were worth {statistics.fmean(share):.0%} of their number."
    else:
        return None
    return evidence.Finding(
        "stale rollouts",
        seen,
        "What is learned from an old policy's answers is true of that policy; weights that correct for it add noise.",
        f"Sample closer to the training, {evidence.setting(of, 'max_staleness')}, or take fewer "
        f"{evidence.setting(of, 'epochs')} over the same answers.",
    )


_VALUE_TERM, _RISEN = 2.0, 2.0


def value_loss(of: evidence.Evidence) -> evidence.Finding | None:
    """The critic drowns the policy, or knows less than the mean."""
    losses, explained = of.series("value_loss"), of.series("explained_variance")
    told = evidence.trend(losses)
    if told is None:
        return None
    weight = of.settings.get("value_coefficient", 0.0)
    if of.settings.get("critic") == "joint" and weight * told.last > _VALUE_TERM:
        # whitened advantages bound the policy's own term to about one
        seen = f"The critic's part of the joint loss is {weight * told.last:.2f} ({weight:g} times {told.last:.2f})."
        why = "Against a policy term of about one it decides where the shared weights go."
    elif told.last > _RISEN * told.first and told.sigmas > evidence.SIGMAS:
        seen, why = f"The value loss rose from {told.first:.3g} to {told.last:.3g}.", "The critic is losing the reward."
    elif len(explained) >= 5 and statistics.fmean(explained[-3:]) < 0:
        seen = f"The critic explains {statistics.fmean(explained[-3:]):.0%} of the returns' variance in the last steps."
        why = "Below zero it predicts worse than the mean would, and advantages are mostly its errors."
    else:
        return None
    return evidence.Finding(
        "value loss dominates",
        seen,
        why,
        f"Lower {evidence.setting(of, 'critic_lr')} or {evidence.setting(of, 'value_coefficient')}, or use `rloo` or "
        "`grpo`, which need no critic.",
    )


_CUT_OFF = 0.5


def cut_off(of: evidence.Evidence) -> evidence.Finding | None:
    """Most answers end because they must."""
    told = evidence.trend(of.series("missing_eos_share"))
    if told is None or told.last <= _CUT_OFF:
        return None
    return evidence.Finding(
        "answers cut off",
        f"{told.last:.0%} of the answers did not end by themselves in the last steps ({told.first:.0%} in the first).",
        "Scores are of beginnings of answers, and the policy is not taught to end.",
        f"Raise {evidence.setting(of, 'max_tokens')}, or make {evidence.setting(of, 'missing_eos')} more negative.",
    )


_DIVERGED = math.log(1.3)


def divergence(of: evidence.Evidence) -> evidence.Finding | None:
    """A loss that a run descends went up. Seen in its logarithm: what diverges shakes the more the higher it is."""
    for phase, rows in of.phases.items():
        for name in evidence.LOSSES:
            values = evidence.finite(rows, name)
            told = evidence.trend([math.log(value) for value in values]) if min(values, default=0.0) > 0.0 else None
            if told is not None and told.change > _DIVERGED and told.sigmas > evidence.SIGMAS:
                return evidence.Finding(
                    "divergence",
                    f"The loss of {phase} rose from {math.exp(told.first):.4g} to {math.exp(told.last):.4g}.",
                    "Steps are longer than the loss is smooth.",
                    f"Lower {evidence.setting(of, 'lr')}, or give it `warmup_steps`.",
                )
    return None
