"""Gates of a policy in their first form: figures from `trainer.judging.evaluation` against the line's thresholds.

A gate that could not be measured is not passed: it becomes one figure that says how many answers there were and how
many it takes. Called by `trainer.job`; the figures end in the manifest.
"""

import math

from trimtab.core import lines, models
from trimtab.trainer.judging import evaluation


def of_policy(
    measured: evaluation.Measured, thresholds: lines.GateConfig, minimum: int
) -> tuple[models.GateFigure, ...]:
    """The gates of a candidate. minimum: fewest judged prompts that count as a measurement."""
    if len(measured.wins) < minimum:
        return (
            models.GateFigure(
                name="prompts_judged",
                value=float(len(measured.wins)),
                threshold=float(minimum),
                passed=False,
                detail=f"not measured: {len(measured.wins)} held-out prompts could be judged, and it takes {minimum}",
            ),
        )
    win_rate, win_low, win_high = evaluation.interval(measured.wins)
    drift, drift_low, drift_high = evaluation.interval(measured.kl_nats)
    judged = f"on {len(measured.wins)} held-out prompts"
    return (
        models.GateFigure(
            name="win_rate",
            value=win_rate,
            threshold=thresholds.win_rate,
            passed=win_rate >= thresholds.win_rate,
            detail=f"at least {thresholds.win_rate:g}: share {judged} on which the evaluation reward model prefers it "
            f"to the reference, ties half, 95 % {win_low:.3f} to {win_high:.3f}",
        ),
        _at_most(
            "kl_to_anchor",
            drift,
            thresholds.kl_to_anchor,
            f"KL to the anchor, nats per answer {judged}, 95 % {drift_low:.2f} to {drift_high:.2f}",
        ),
        _at_most(
            "length_ratio",
            measured.candidate.tokens / measured.reference.tokens,
            thresholds.length_ratio,
            f"mean tokens of its answers over the reference's ({measured.candidate.tokens:.1f} over "
            f"{measured.reference.tokens:.1f})",
        ),
        _at_most(
            "repetition",
            measured.candidate.repetition,
            thresholds.repetition,
            "share of answers that repeat themselves",
        ),
    )


def _at_most(name: str, value: float, threshold: float, detail: str) -> models.GateFigure:
    passed = math.isfinite(value) and value <= threshold
    return models.GateFigure(name, value, threshold, passed, f"at most {threshold:g}: {detail}")
