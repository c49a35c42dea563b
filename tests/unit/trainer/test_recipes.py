"""Settings are refused where they are wrong, before anything is queued, and nothing heavy is imported for it."""

import dataclasses
import json
import subprocess
import sys

import pytest

from trimtab.core import errors, runs
from trimtab.trainer import recipes


@pytest.mark.parametrize("kind", list(recipes.METHODS))
def test_nothing_said_gives_the_defaults_and_they_survive_the_round_trip(kind: runs.RunKind) -> None:
    defaults = recipes.parse(kind, "")
    assert recipes.parse(kind, "{}") == defaults
    assert recipes.parse(kind, json.dumps(dataclasses.asdict(defaults))) == defaults


def test_what_is_said_replaces_the_default() -> None:
    settings = recipes.parse(runs.RunKind.PPO, '{"beta": 0, "iterations": 3, "optimizer": "muon"}')
    assert isinstance(settings, recipes.PPOSettings)
    assert (settings.beta, settings.iterations, settings.optimizer) == (0.0, 3, "muon")
    assert isinstance(settings.beta, float)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ('{"epoch": 3}', "settings_json.epoch"),
        ('{"epochs": "3"}', "settings_json.epochs"),
        ('{"epochs": 2.5}', "settings_json.epochs"),
        ('{"epochs": true}', "settings_json.epochs"),
        ('{"epochs": 0}', "settings_json.epochs"),
        ('{"lr": -1}', "settings_json.lr"),
        ('{"lr": NaN}', "settings_json.lr"),
        ('{"lr": Infinity}', "settings_json.lr"),
        ('{"weight_decay": -0.1}', "settings_json.weight_decay"),
        ('{"optimizer": "sgd"}', "settings_json.optimizer"),
        ('{"surprise": 1}', "settings_json.surprise"),
        ('{"heads": 2}', "settings_json.heads"),
        ('{"pessimism": 1}', "settings_json.pessimism"),
        ('{"pessimism": -1, "heads": 5}', "settings_json.pessimism"),
        ('{"recent_share": 0.6}', "settings_json.recent_share"),
        ('{"criteria": "tone"}', "settings_json.criteria"),
        ('{"criteria": "tone:0"}', "settings_json.criteria"),
        ('{"criteria": "tone:nan"}', "settings_json.criteria"),
        ('{"criteria": "tone:1, tone:2"}', "settings_json.criteria"),
        ('{"safety": "safe"}', "settings_json.safety"),
        ("[]", "settings_json"),
        ("{", "settings_json"),
    ],
)
def test_a_wrong_setting_is_named(settings: str, field: str) -> None:
    with pytest.raises(errors.InvalidField) as refused:
        recipes.parse(runs.RunKind.REWARD, settings)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("kind", "settings", "field"),
    [
        ("reward", {"train_body": False, "lora_rank": 4}, "lora_rank"),
        ("reward", {"train_body": False, "precision": "bfloat16"}, "precision"),
        ("sft", {"precision": "float16"}, "precision"),
        ("sft", {"lora_rank": -1}, "lora_rank"),
        ("sft", {"lora_dropout": 1.0}, "lora_dropout"),
        ("ppo", {"kl_estimator": "k4"}, "kl_estimator"),
        ("ppo", {"aggregation": "mean"}, "aggregation"),
        ("ppo", {"critic": "none"}, "critic"),
        ("ppo", {"dual_clip": 1.0}, "dual_clip"),
        ("ppo", {"lam": 1.5}, "lam"),
        ("a2c", {"clip": 0.2}, "clip"),
        ("a2c", {"epochs": 2}, "epochs"),
        ("rloo", {"samples": 1}, "samples"),
        ("rloo", {"critic_lr": 1e-3}, "critic_lr"),
        ("grpo", {"scale": "group"}, "scale"),
        ("grpo", {"per_session": 0}, "per_session"),
        ("grpo", {"sampler": "policy:9000", "iterations": 6, "max_staleness": 4}, "iterations"),
        ("grpo", {"sampler": "policy:9000", "snapshot_every": 6, "max_staleness": 4}, "snapshot_every"),
        ("dpo", {"loss": "exo"}, "loss"),
        ("dpo", {"label_smoothing": 0.5}, "label_smoothing"),
        ("dpo", {"label_smoothing": -0.1}, "label_smoothing"),
        ("dpo", {"label_smoothing": 0.1, "loss": "ipo"}, "label_smoothing"),
        ("dpo", {"beta": 0}, "beta"),
        ("dpo", {"sft_weight": -1}, "sft_weight"),
        ("kto", {"desirable_weight": 0}, "desirable_weight"),
        ("kto", {"kl_memory": 0.5}, "kl_memory"),
        ("kto", {"pairs": "yes"}, "pairs"),
        ("pretrain", {"block_tokens": 0}, "block_tokens"),
        ("pretrain", {"evaluation_prompts": 3}, "evaluation_prompts"),
    ],
)
def test_a_setting_that_makes_no_sense_for_its_method_is_refused(kind: str, settings: object, field: str) -> None:
    with pytest.raises(errors.InvalidField) as refused:
        recipes.parse(runs.RunKind(kind), json.dumps(settings))
    assert refused.value.field == f"settings_json.{field}"


def test_criteria_have_weights_and_the_safe_one_may_have_none() -> None:
    def weights(settings: str) -> dict[str, float]:
        parsed = recipes.parse(runs.RunKind.REWARD, settings)
        assert isinstance(parsed, recipes.RewardSettings)
        return parsed.weights_of_criteria()

    assert weights("{}") == {}
    assert weights('{"criteria": "helpful:1, tone:0.5", "safety": "harm"}') == {"helpful": 1, "tone": 0.5, "harm": 0}
    assert weights('{"criteria": "harm:-1,:2", "safety": "harm"}') == {"harm": -1.0, "": 2.0}


def test_every_kind_of_run_has_its_method() -> None:
    assert recipes.METHODS.keys() == set(runs.RunKind)


def test_reading_settings_imports_no_torch() -> None:
    script = "import sys; from trimtab.trainer import recipes; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "False\n"
    )


@pytest.mark.parametrize(
    ("kind", "settings", "refused"),
    [
        ("sft", {}, ""),
        ("dpo", {"lora_rank": 4}, ""),
        ("reward", {"heads": 5, "precision": "bfloat16"}, ""),
        ("sft", {"optimizer": "muon"}, "settings_json.optimizer"),
        ("reward", {"train_body": False}, "settings_json.train_body"),
        *((kind, {}, "kind") for kind in ("ppo", "a2c", "rloo", "grpo", "kto", "pretrain")),
    ],
)
def test_what_several_processes_cannot_take_is_named(kind: str, settings: dict[str, object], refused: str) -> None:
    parsed = recipes.parse(runs.RunKind(kind), json.dumps(settings))
    recipes.check_processes(runs.RunKind(kind), parsed, 1)
    if not refused:
        recipes.check_processes(runs.RunKind(kind), parsed, 2)
        return
    with pytest.raises(errors.InvalidField, match="--job-processes") as problem:
        recipes.check_processes(runs.RunKind(kind), parsed, 2)
    assert problem.value.field == refused
