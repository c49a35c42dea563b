"""Each rule finds what it is for in a series made to show it, and stays silent about runs that went well."""

import dataclasses
import itertools
import json
import math
import random
from typing import Any

import pytest

from trimtab.trainer import recipes
from trimtab.trainer.judging import symptoms
from trimtab.trainer.judging.symptoms import distance, evidence

STEPS = 20
PPO = {**dataclasses.asdict(recipes.PPOSettings()), "value_coefficient": 0.1, "critic": "separate", "max_staleness": 4}


def noise(seed: int, scale: float) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(0, scale) for _ in range(STEPS)]


def line(first: float, last: float, scale: float = 0.0, seed: int = 1) -> list[float]:
    """From first to last, with noise."""
    return [first + (last - first) * i / (STEPS - 1) + e for i, e in enumerate(noise(seed, scale))]


def healthy() -> dict[str, list[float]]:
    """As the PPO runs of the demo look, first step to last."""
    return {
        "score": line(-0.23, 1.41, 0.05),
        "score_deviation": line(1.1, 0.8, 0.05),
        "response_tokens": line(16.2, 15.0, 0.3),
        "missing_eos_share": line(0.0, 0.0),
        "entropy_nats_per_token": line(0.32, 0.10, 0.01),
        "kl_nats": line(0.0, 3.3, 0.1),
        "approximate_kl": line(0.03, 0.001),
        "value_loss": line(0.21, 0.04, 0.01),
        "explained_variance": line(0.1, 0.6, 0.05),
        "policy_loss": noise(3, 0.01),
        "zero_advantage_share": line(0.0, 0.0),
        "effective_sample_share": line(0.98, 0.95),
        "staleness": line(0.0, 0.0),
        "dropped": line(0.0, 0.0),
        "answers": line(128.0, 128.0),
        "policy_gradient_norm": line(0.8, 0.4, 0.05),
    }


JUDGED = {
    "prompts": 638.0,
    "steps_skipped": 0.0,
    "prompts_judged": 128.0,
    "prompts_unscored": 0.0,
    "response_tokens": 15.4,
    "reference_response_tokens": 15.3,
    "formatted": 0.0,
    "reference_formatted": 0.0,
    "evaluation_reward": 0.485,
    "reference_evaluation_reward": -0.414,
    "win_rate": 0.746,
    "win_rate_high": 0.821,
    "training_win_rate": 0.81,
    "reward_length_slope": 0.2,
    "gain_at_equal_length": 0.88,
}


def seen(
    series: dict[str, list[float]] | None = None,
    figures: dict[str, float] | None = None,
    settings: dict[str, Any] | None = None,
    verdict: str = "",
) -> symptoms.Evidence:
    """A healthy PPO run with changes; a series that is empty is not told."""
    told = {name: values for name, values in {**healthy(), **(series or {})}.items() if values}
    rows = [{name: values[i] for name, values in told.items()} for i in range(STEPS)]
    kept = {name: value for name, value in {**JUDGED, **(figures or {})}.items() if not math.isnan(value)}
    return symptoms.Evidence({**PPO, **(settings or {})}, {"proximal policy optimisation": rows}, kept, verdict)


def names(given: symptoms.Evidence) -> list[str]:
    return [finding.name for finding in symptoms.diagnose(given)]


def of_losses(name: str, *phases: list[float]) -> symptoms.Evidence:
    """A run that descends a loss."""
    told = {
        f"phase {number}": [
            {name: value, "gradient_norm": norm} for value, norm in zip(values, itertools.repeat(0.5), strict=False)
        ]
        for number, values in enumerate(phases)
    }
    return symptoms.Evidence(dataclasses.asdict(recipes.SFTSettings()), told, {"steps_skipped": 0.0})


def test_runs_that_went_well_have_no_finding() -> None:
    assert names(seen()) == []
    assert names(seen(verdict="promoted")) == []
    # the second cycle of a line: it starts some nats away from its reference, and its score has little to gain
    second = {
        "kl_nats": line(3.6, 4.1, 0.1),
        "score": line(1.3, 1.35, 0.05),
        "entropy_nats_per_token": line(0.17, 0.11),
    }
    assert names(seen(second, {"win_rate": 0.855, "win_rate_high": 0.915})) == []
    assert names(of_losses("loss_nats_per_token", line(6.9, 0.3, 0.1))) == []
    rewards = [line(0.6931, 0.3582, 0.08, seed) for seed in (4, 5)]
    assert names(of_losses("loss_nats_per_example", *rewards)) == []
    assert names(symptoms.Evidence({}, {})) == []


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("KL too tight", {"series": {"kl_nats": line(0, 0.05, 0.01)}, "figures": {"win_rate": 0.52}}),
        (
            "KL too tight",
            {
                "series": {"kl_nats": line(0, 0.05, 0.01), "score": line(0.1, 0.1, 0.05)},
                "figures": {"win_rate": math.nan, "training_win_rate": math.nan},
            },
        ),
        ("over-optimisation", {"figures": {"win_rate": 0.55, "win_rate_high": 0.63, "training_win_rate": 0.93}}),
        (
            "over-optimisation",
            {"figures": {"win_rate": 0.46, "win_rate_high": 0.54, "training_win_rate": math.nan}},
        ),
        ("over-optimisation", {"verdict": "not proven"}),
        ("over-optimisation", {"verdict": "rolled back"}),
        (
            "length gaming",
            {"figures": {"response_tokens": 31.0, "reward_length_slope": 1.2, "gain_at_equal_length": 0.1}},
        ),
        (
            "length gaming",
            {
                "series": {"response_tokens": line(16, 40, 0.5)},
                "figures": {"reference_response_tokens": math.nan, "gain_at_equal_length": math.nan},
            },
        ),
        ("format gaming", {"figures": {"formatted": 0.5, "reference_formatted": 0.1}}),
        ("format gaming", {"figures": {"format_gaming": 0.9, "reference_format_gaming": 0.0}}),
        ("reward scale drift", {"series": {"score_deviation": line(1, 5, 0.05)}}),
        ("reward scale drift", {"series": {"score": line(0, 12, 0.2)}}),
        ("entropy collapse", {"series": {"entropy_nats_per_token": line(0.6, 0.0, 0.002)}}),
        ("stale rollouts", {"series": {"staleness": line(3, 3.5)}}),
        ("stale rollouts", {"series": {"effective_sample_share": line(0.4, 0.3)}}),
        ("stale rollouts", {"series": {"dropped": line(300, 300)}}),
        (
            "value loss dominates",
            {"series": {"value_loss": line(50, 40, 1)}, "settings": {"critic": "joint"}},
        ),
        ("value loss dominates", {"series": {"value_loss": line(0.1, 0.9, 0.02)}}),
        ("value loss dominates", {"series": {"explained_variance": line(-0.1, -0.5, 0.01)}}),
        ("answers cut off", {"series": {"missing_eos_share": line(0.1, 0.9, 0.02)}}),
        ("unscored answers", {"figures": {"prompts_unscored": 40.0}}),
        ("examples left out", {"figures": {"skipped: too long": 900.0}}),
    ],
)
def test_what_went_wrong_is_named_with_figures_a_reason_and_a_setting(name: str, changes: dict[str, Any]) -> None:
    (finding,) = symptoms.diagnose(seen(**changes))
    assert finding.name == name and not finding.alarm
    assert any(sign.isdigit() for sign in finding.seen) or finding.name == "over-optimisation"
    assert finding.seen[-1] == finding.why[-1] == finding.advice[-1] == "."


def test_over_optimisation_says_how_far_the_policy_went_and_where_its_reward_is_greatest() -> None:
    doubted = {"win_rate": 0.55, "win_rate_high": 0.63, "training_win_rate": 0.93, "kl_nats": 8.9995}
    (finding,) = symptoms.diagnose(seen(figures=doubted))
    # ln n - (n - 1) / n = 9 at n = 22,026
    assert "KL of 9.00 nats an answer is that of choosing the best of 22,000." in finding.seen
    # a score that rises ever faster with the distance has no peak
    assert "greatest" not in finding.seen
    kl_nats = line(0.0, 9.0)
    score = [distance.LEARNED.gain(math.sqrt(kl), 1.0, 0.5) + e for kl, e in zip(kl_nats, noise(1, 0.01), strict=True)]
    bent = {"kl_nats": kl_nats, "score": score}
    (past,) = symptoms.diagnose(seen(bent, doubted))
    assert "which it has passed" in past.seen
    at = float(past.seen.partition("is greatest at ")[2].partition(" nats")[0])
    assert at == pytest.approx(math.e**2, rel=0.1)
    (before,) = symptoms.diagnose(seen(bent, {**doubted, "kl_nats": at / 2}))
    assert "50% of which it has come" in before.seen
    (unknown,) = symptoms.diagnose(seen({**bent, "kl_nats": []}, {**doubted, "kl_nats": math.nan}))
    assert "nats an answer" not in unknown.seen


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("steps skipped", {"figures": {"steps_skipped": 15.0}}),
        ("no gradient", {"series": {"policy_gradient_norm": line(1e-9, 1e-9)}}),
        ("no learning", {"series": {"approximate_kl": line(0, 0), "kl_nats": line(0, 0)}}),
        (
            "no learning",
            {
                "series": {"approximate_kl": line(0, 0), "kl_nats": line(0, 1e-5)},
                "settings": {"minibatches": 1, "epochs": 1},
            },
        ),
        ("zero advantages", {"series": {"score": line(0.3, 0.3), "score_deviation": line(0, 0)}}),
        ("zero advantages", {"series": {"score": line(0.3, 0.3), "score_deviation": []}}),
        ("zero advantages", {"series": {"zero_advantage_share": line(1, 1)}}),
    ],
)
def test_a_policy_that_learned_nothing_is_an_alarm(name: str, changes: dict[str, Any]) -> None:
    findings = symptoms.diagnose(seen(**changes))
    assert findings[0].name == name and findings[0].alarm


def test_one_step_an_iteration_says_nothing_about_its_neighbours() -> None:
    # PPO with a single step an iteration: the ratio is 1 in every one, and the policy moves all the same
    once = {"approximate_kl": line(0, 0)}
    assert names(seen(once, settings={"minibatches": 1, "epochs": 1})) == []


def test_a_loss_that_stays_where_it_was_is_an_alarm_unless_there_was_nothing_to_learn() -> None:
    (flat,) = symptoms.diagnose(of_losses("loss_nats_per_token", line(3.2, 3.2, 0.02)))
    assert (flat.name, flat.alarm) == ("no learning", True) and "`lr`" in flat.advice
    (second,) = symptoms.diagnose(of_losses("loss", line(3.2, 1.2, 0.02), line(0.6931, 0.6931, 0.001)))
    assert "phase 1" in second.seen
    assert names(of_losses("loss_nats_per_token", line(0.004, 0.004, 1e-5))) == []
    assert names(of_losses("loss_nats_per_token", line(3.2, 3.2, 0.02)[:5])) == []


def test_a_loss_that_rises_is_a_divergence() -> None:
    assert names(of_losses("loss_nats_per_token", line(3.0, 9.0, 0.2))) == ["divergence"]


def test_a_trend_is_told_from_noise() -> None:
    false = sum(abs(told.sigmas) > 3 for s in range(500) if (told := evidence.trend(noise(s, 1.0))) is not None)
    assert false <= 15
    moved = evidence.trend(line(0.0, 1.0, 0.05))
    assert moved is not None and moved.sigmas > 10 and moved.change == pytest.approx(0.85, abs=0.1)
    assert evidence.trend([1.0, 2.0, 3.0]) is None
    still = evidence.trend([2.0] * 8)
    assert still is not None and (still.change, still.sigmas) == (0.0, 0.0)


def test_numbers_that_are_none_are_passed_over() -> None:
    rows = [{"score": value, "kl_nats": 1.0} for value in (0.0, math.nan, math.inf, 1.0)]
    given = symptoms.Evidence({}, {"a": rows})
    assert given.series("score") == [0.0, 1.0] and given.last("score") == 1.0
    assert given.series("nothing") == [] and given.last("nothing") is None
    json.dumps([dataclasses.asdict(finding) for finding in symptoms.diagnose(given)], allow_nan=False)
