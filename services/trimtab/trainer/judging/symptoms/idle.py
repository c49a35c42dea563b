"""Rules: nothing was learned, or from little of what was given."""

import math
import statistics

from trimtab.trainer.judging.symptoms import evidence

_SKIPPED_SHARE = 0.5


def skipped_steps(of: evidence.Evidence) -> evidence.Finding | None:
    """Half as many optimizer steps were left out as the run has steps."""
    skipped = of.figures.get("steps_skipped", 0.0)
    steps = max((len(rows) for rows in of.phases.values()), default=0)
    if not steps or skipped < _SKIPPED_SHARE * steps:
        return None
    return evidence.Finding(
        "steps skipped",
        f"{skipped:.0f} optimizer steps of a run of {steps} steps were skipped.",
        "A step is skipped when its gradient is not finite: those steps taught nothing.",
        f"Lower {evidence.setting(of, 'lr')}, and look among the run's examples for extreme lengths or weights.",
        alarm=True,
    )


_NO_GRADIENT = 1e-6
_GRADIENTS = ("gradient_norm", "policy_gradient_norm")


def no_gradient(of: evidence.Evidence) -> evidence.Finding | None:
    """The middle gradient norm of a phase is nothing."""
    for phase, rows in of.phases.items():
        for name in _GRADIENTS:
            norms = evidence.finite(rows, name)
            if norms and statistics.median(norms) < _NO_GRADIENT:
                return evidence.Finding(
                    "no gradient",
                    f"The gradient's norm was {statistics.median(norms):.1g} in the middle step of {phase}.",
                    "Without a gradient no weight moves: the loss does not depend on what is trained, or there is "
                    "nothing to tell the examples apart by.",
                    "Look whether all answers of a prompt score the same, and whether every label is the same.",
                    alarm=True,
                )
    return None


_FLAT_SHARE, _FLAT_STEPS = 0.01, 8
_LEARNED_NATS = 0.05


def flat_loss(of: evidence.Evidence) -> evidence.Finding | None:
    """A loss that a run descends has not moved by a hundredth, nor by more than its noise."""
    for phase, rows in of.phases.items():
        for name in evidence.LOSSES:
            values = evidence.finite(rows, name)
            told = evidence.trend(values)
            if told is None or len(values) < _FLAT_STEPS or abs(told.first) < _LEARNED_NATS:
                continue
            if abs(told.change) < _FLAT_SHARE * abs(told.first) and told.sigmas < evidence.SIGMAS:
                return evidence.Finding(
                    "no learning",
                    f"The loss of {phase} went from {told.first:.4g} to {told.last:.4g} in {len(values)} steps.",
                    "That is within its noise: the run ended where it began.",
                    f"Raise {evidence.setting(of, 'lr')}; if the loss stays, the examples contradict each other or "
                    "hold nothing that can be predicted.",
                    alarm=True,
                )
    return None


_MOVED_NATS = 1e-3


def policy_stands_still(of: evidence.Evidence) -> evidence.Finding | None:
    """An on-policy run whose policy is after its steps what it was before."""
    per_step = of.series("approximate_kl")
    drift = of.series("kl_nats")
    updates = of.settings.get("epochs", 1) * of.settings.get("minibatches", 1)
    if len(per_step) < 2 or not drift:
        return None
    still_by_step = updates > 1 and max(map(abs, per_step)) < evidence.MOVED_KL
    still_by_drift = updates == 1 and max(map(abs, drift)) < _MOVED_NATS
    if not (still_by_step or still_by_drift):
        return None
    return evidence.Finding(
        "no learning",
        f"The KL between neighbouring steps was at most {max(map(abs, per_step)):.1g} nats a token, that to the "
        f"reference at most {max(map(abs, drift)):.1g} nats an answer.",
        "The policy has not moved: its steps are too small, or its gradient is nothing.",
        f"Raise {evidence.setting(of, 'lr')}; look at the advantages first if they are zero.",
        alarm=True,
    )


_SAME_SCORE = 1e-6
_ZERO_SHARE = 0.5


def zero_advantages(of: evidence.Evidence) -> evidence.Finding | None:
    """Most answers have nothing to be better or worse than."""
    scores, spread = of.series("score"), of.series("score_deviation")
    same = max(spread) < _SAME_SCORE if spread else len(scores) > 1 and max(scores) - min(scores) < _SAME_SCORE
    if scores and same:
        return evidence.Finding(
            "zero advantages",
            f"Every answer of the run was scored {statistics.fmean(scores):.4g}.",
            "Where all answers score the same none is better than expected, so only the KL and demonstrations steer.",
            "Look whether the reward model is trained (its gates) and reads these answers (`train show` of its run).",
            alarm=True,
        )
    for name, what in (
        ("zero_advantage_share", "of the answers have an advantage of zero"),
        ("equal_score_group_share", "of the prompts have only answers of equal score"),
    ):
        values = of.series(name)
        if values and statistics.fmean(values) > _ZERO_SHARE:
            return evidence.Finding(
                "zero advantages",
                f"{statistics.fmean(values):.0%} {what}, on average over {len(values)} steps.",
                "They add nothing to the gradient: the run pays for answers that it does not learn from.",
                f"Draw more of a prompt, {evidence.setting(of, 'samples')}, or harder prompts; a policy that says the "
                "same each time needs more entropy first.",
                alarm=statistics.fmean(values) > 0.95,
            )
    return None


_LEFT_OUT_SHARE = 0.5
_USED = ("demonstrations", "pairs", "answers", "documents", "prompts")


def left_out(of: evidence.Evidence) -> evidence.Finding | None:
    """More examples were skipped than used."""
    skipped = {name: value for name, value in of.figures.items() if name.startswith("skipped: ")}
    trained = [v for name, v in of.figures.items() if name.startswith("trained_")]
    used = sum(trained) or max((of.figures.get(name, 0.0) for name in _USED), default=0.0)
    total = sum(skipped.values())
    if not total or total <= _LEFT_OUT_SHARE * (total + used):
        return None
    worst = max(skipped, key=lambda name: skipped[name])
    return evidence.Finding(
        "examples left out",
        f"{total:.0f} examples were left out and {used:.0f} used; most of them as "
        f"“{worst.removeprefix('skipped: ')}” ({skipped[worst]:.0f}).",
        "What is left may not be what the data set was cut for.",
        "Look at the reason: a longer context, another data set, or a smaller `minimum_examples`.",
    )


_UNSCORED_SHARE = 0.1


def unscored(of: evidence.Evidence) -> evidence.Finding | None:
    """Answers that the reward model gave no number."""
    for none, some in (("prompts_unscored", "prompts_judged"), ("unscored", "answers")):
        missing, scored = of.figures.get(none, 0.0), of.figures.get(some, 0.0)
        if none == "unscored":
            scored = sum(of.series(some)) or math.inf
        if missing and missing > _UNSCORED_SHARE * (missing + scored):
            return evidence.Finding(
                "unscored answers",
                f"{missing:.0f} answers had no score beside {scored:.0f} that had one.",
                "No reward is invented for them: what is trained on is not what was drawn.",
                "Look at the reward model's context and that of the policy, and at its log for refused texts.",
            )
    return None
