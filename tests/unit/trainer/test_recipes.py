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
def test_what_a_method_that_needs_no_reward_model_cannot_do_is_refused(kind: str, settings: object, field: str) -> None:
    with pytest.raises(errors.InvalidField) as refused:
        recipes.parse(runs.RunKind(kind), json.dumps(settings))
    assert refused.value.field == f"settings_json.{field}"


@pytest.mark.parametrize("kind", ["rloo", "grpo", "a2c"])
def test_a_method_to_come_says_so(kind: str) -> None:
    with pytest.raises(errors.NotBuiltYet, match=f"Training by {kind} is part of the interface"):
        recipes.parse(runs.RunKind(kind), "{}")


def test_reading_settings_imports_no_torch() -> None:
    script = "import sys; from trimtab.trainer import recipes; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "False\n"
    )
