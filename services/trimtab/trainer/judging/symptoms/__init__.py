"""What a run's own figures say went wrong: `trimtab train diagnose`. Pure rules, each with its thresholds beside it.

A rule reads the series that the run told of its steps and its final figures, and returns a finding or nothing: what was
seen, why that means it, which setting to try. A figure that a method does not tell makes a rule silent; the names are
those of `trainer.methods` and `trainer.judging.evaluation`. Called by `cli.models.diagnosing`.
"""

from collections.abc import Callable

from trimtab.trainer.judging.symptoms import course, gain, idle
from trimtab.trainer.judging.symptoms.evidence import Evidence, Finding

__all__ = ["RULES", "Evidence", "Finding", "diagnose"]

RULES: tuple[Callable[[Evidence], Finding | None], ...] = (
    idle.skipped_steps,
    idle.no_gradient,
    idle.flat_loss,
    idle.policy_stands_still,
    idle.zero_advantages,
    idle.left_out,
    idle.unscored,
    gain.kl_too_tight,
    gain.over_optimisation,
    gain.length_gaming,
    gain.format_gaming,
    course.reward_scale_drift,
    course.entropy_collapse,
    course.stale_rollouts,
    course.value_loss,
    course.cut_off,
    course.divergence,
)


def diagnose(evidence: Evidence) -> list[Finding]:
    """Every finding, alarms first."""
    found = [finding for rule in RULES if (finding := rule(evidence)) is not None]
    return sorted(found, key=lambda finding: not finding.alarm)
