"""Tiny runs made to fail in a way that has a name, and what `trimtab train diagnose` says of them."""

import json
import pathlib
from typing import Any

import pytest
import torch
from tests.integration.training import making

from trimtab.cli.models import recorded
from trimtab.modeling import loading, rewards
from trimtab.trainer import job
from trimtab.trainer.data import datasets
from trimtab.trainer.judging import symptoms

ON_POLICY = {"iterations": 8, "prompts": 4, "samples": 4, "max_tokens": 8, "demonstration_weight": 0.0}


@pytest.fixture(scope="module")
def inputs(folder_of_policy: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """reward: of a random head; untrained_reward: says 0 to everything."""
    scratch = tmp_path_factory.mktemp("inputs")
    policy = loading.load_policy(folder_of_policy)
    rewards.save_reward_model(rewards.from_policy(policy), scratch / "untrained")
    reward = rewards.from_policy(policy)
    torch.nn.init.normal_(reward.model.score.weight, generator=torch.Generator().manual_seed(3))
    rewards.save_reward_model(reward, scratch / "reward")
    datasets.write(scratch / "dataset", [*making.demonstrations().examples, *making.feedback().examples], [])
    return {
        "parent": str(folder_of_policy),
        "reference": str(folder_of_policy),
        "reward": str(scratch / "reward"),
        "untrained_reward": str(scratch / "untrained"),
        "dataset": str(scratch / "dataset"),
    }


def diagnosed(
    folder: pathlib.Path, kind: str, inputs: dict[str, str], settings: dict[str, Any]
) -> list[symptoms.Finding]:
    """The findings of a run that the trainer's job really did."""
    folder.mkdir(exist_ok=True)
    spec = {"kind": kind, "seed": 7, "settings_json": json.dumps(settings)}
    (folder / "started.json").write_text(json.dumps({"spec": spec, "inputs": inputs, "gates": {}}))
    job.main([str(folder)])
    phases: dict[str, list[dict[str, float]]] = {}
    for row in recorded.steps(folder):
        phases.setdefault(row["phase"], []).append(row["figures"])
    result = json.loads((folder / "result.json").read_text())
    return symptoms.diagnose(symptoms.Evidence(result["settings"], phases, result["figures"]))


def test_fine_tuning_that_learns_has_no_finding(inputs: dict[str, str], tmp_path: pathlib.Path) -> None:
    assert diagnosed(tmp_path, "sft", inputs, {"epochs": 4, "batch": 8}) == []


def test_a_learning_rate_of_nothing_is_an_alarm(inputs: dict[str, str], tmp_path: pathlib.Path) -> None:
    still = {"lr": 1e-12, "matrix_lr": 1e-12}
    (sft,) = diagnosed(tmp_path / "sft", "sft", inputs, {"epochs": 3, "batch": 4, **still})
    assert (sft.name, sft.alarm) == ("no learning", True)
    (reward,) = diagnosed(tmp_path / "reward", "reward", inputs, {"epochs": 3, "terms_lr": 1e-12, **still})
    assert (reward.name, reward.alarm) == ("no learning", True)
    found = diagnosed(tmp_path / "ppo", "ppo", inputs, {**ON_POLICY, **still, "critic_lr": 1e-12})
    assert ("no learning", True) in [(one.name, one.alarm) for one in found]


def test_a_learning_rate_of_far_too_much_is_a_divergence(inputs: dict[str, str], tmp_path: pathlib.Path) -> None:
    found = diagnosed(tmp_path, "sft", inputs, {"epochs": 6, "batch": 8, "optimizer": "adamw", "lr": 10.0})
    assert "divergence" in [one.name for one in found]


def test_a_reward_that_is_always_the_same_gives_no_advantages(inputs: dict[str, str], tmp_path: pathlib.Path) -> None:
    constant = {**inputs, "reward": inputs["untrained_reward"]}
    found = diagnosed(tmp_path, "ppo", constant, {**ON_POLICY, "missing_eos": 0.0})
    assert ("zero advantages", True) in [(one.name, one.alarm) for one in found]


def test_a_huge_beta_holds_the_policy_at_its_reference(inputs: dict[str, str], tmp_path: pathlib.Path) -> None:
    found = diagnosed(tmp_path, "ppo", inputs, {**ON_POLICY, "beta": 300.0, "lr": 1e-4})
    (tight,) = [one for one in found if one.name == "KL too tight"]
    assert "beta was 300" in tight.seen and "`beta`" in tight.advice and not tight.alarm
