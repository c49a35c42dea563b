"""LoRA: adapters are what moves and what checkpoints keep, and weights in the end; every method trains them."""

import json
import pathlib
from typing import Any

import pytest
import torch
from safetensors import torch as tensor_files
from tests.integration.training import making

from trimtab.core import errors
from trimtab.modeling import loading, logprobs, lora, rewards
from trimtab.trainer import job, recipes
from trimtab.trainer.data import datasets
from trimtab.trainer.methods import references, sft
from trimtab.trainer.steps import checkpoints, progress

ADAPTER = lora.Adapter(rank=4, alpha=8)
SETTINGS = recipes.SFTSettings(optimizer="adamw", lr=1e-2, epochs=2, batch=8, lora_rank=4)
PROMPTS, ANSWERS = [[5, 6, 7], [8, 9]], [[20, 21, 0], [22, 0]]
JUDGED = {"evaluation_prompts": 4, "evaluation_minimum": 2}
EVERY_METHOD: dict[str, dict[str, Any]] = {
    "sft": {"epochs": 1, "batch": 8, **JUDGED},
    "reward": {"epochs": 1},
    "ppo": {"iterations": 2, "prompts": 4, "samples": 2, **JUDGED},
    "a2c": {"iterations": 2, "prompts": 4, "samples": 2, "critic": "joint", **JUDGED},
    "rloo": {"iterations": 2, "prompts": 4, "samples": 2, **JUDGED},
    "grpo": {"iterations": 2, "prompts": 4, "samples": 2, **JUDGED},
    "dpo": {"batch": 8, **JUDGED},
    "kto": {"batch": 8, **JUDGED},
    "pretrain": {"batch": 4, "block_tokens": 32},
}


def adapted(policy: loading.LoadedPolicy, seed: int = 1) -> loading.LoadedPolicy:
    lora.attach(policy.model, ADAPTER, seed)
    return policy


def trained(policy: loading.LoadedPolicy, report: progress.Progress) -> loading.LoadedPolicy:
    sft.train(policy, making.demonstrations(), SETTINGS, 3, report)
    return policy


@torch.no_grad()
def values(model: Any) -> torch.Tensor:
    return logprobs.flat_logprobs(model, PROMPTS, ANSWERS)


def test_an_adapted_model_begins_as_it_was_and_only_adapters_move(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    before, begun = lora.plain_state(policy.model), values(policy.model)
    before = {name: weight.clone() for name, weight in before.items()}
    assert torch.equal(values(adapted(policy).model), begun)
    trained(policy, report)
    assert all(torch.equal(weight, before[name]) for name, weight in lora.plain_state(policy.model).items())
    assert (values(policy.model) - begun).abs().max() > 0.01


def test_merged_it_says_what_it_said_adapted_and_is_an_ordinary_model(
    policy: loading.LoadedPolicy, report: progress.Progress, tmp_path: pathlib.Path
) -> None:
    names = [name for name, _ in policy.model.named_parameters()]
    trained(adapted(policy), report)
    said = values(policy.model)
    lora.merge(policy.model)
    torch.testing.assert_close(values(policy.model), said, rtol=0, atol=1e-5)
    assert [name for name, _ in policy.model.named_parameters()] == names
    loading.save_policy(policy.model, policy.tokenizer, policy.profile, tmp_path / "saved")
    assert torch.equal(values(loading.load_policy(tmp_path / "saved").model), values(policy.model))


def test_without_its_adapters_it_is_its_own_reference(policy: loading.LoadedPolicy, report: progress.Progress) -> None:
    begun = values(policy.model)
    trained(adapted(policy), report)
    moved = values(policy.model)
    assert torch.equal(values(lora.Unadapted(policy.model)), begun)
    groups = [references.Group(tuple(p), (tuple(a),)) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    assert references.all_sums(lora.Unadapted(policy.model), groups).sum() == pytest.approx(begun.sum().item())
    assert torch.equal(values(policy.model), moved)
    assert all(weight.requires_grad is ("lora_" in name) for name, weight in policy.model.named_parameters())


class Killed(Exception):
    pass


class Mortal(progress.Progress):
    """Dies at the end of a step, after its checkpoint."""

    def step(self, figures: dict[str, float]) -> None:
        super().step(figures)
        if self._done.number == 4:
            raise Killed


class Eager(checkpoints.Checkpoints):
    def due(self) -> bool:
        return True


def test_checkpoints_keep_adapters_alone_and_a_resumed_run_is_bit_equal(
    folder_of_policy: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    def run(name: str, kind: type[progress.Progress]) -> dict[str, torch.Tensor]:
        (tmp_path / name).mkdir(exist_ok=True)
        report = kind(tmp_path / name, Eager(tmp_path / name, b"record", {"torch": "2"}))
        return trained(adapted(loading.load_policy(folder_of_policy)), report).model.state_dict()  # type: ignore[no-any-return]

    whole = run("whole", progress.Progress)
    with pytest.raises(Killed):
        run("broken", Mortal)
    (saved,) = (tmp_path / "broken" / "checkpoints").glob("*.safetensors")
    kept = [name for name in tensor_files.load_file(saved) if name.startswith("module/policy/")]
    assert any("lora_A" in name for name in kept)
    assert all("lora_" in name or "inv_freq" in name for name in kept)
    resumed = run("broken", progress.Progress)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_target_that_the_model_does_not_have_is_refused_with_those_it_has(policy: loading.LoadedPolicy) -> None:
    with pytest.raises(errors.InvalidField, match=r"names qq_proj.*use some of .*q_proj"):
        lora.attach(policy.model, lora.Adapter(4, 8, targets=("qq_proj",)), seed=1)
    lora.attach(policy.model, lora.Adapter(4, 8, targets=("q_proj", "v_proj")), seed=1)
    moving = [name for name, weight in policy.model.named_parameters() if weight.requires_grad]
    assert moving and all("q_proj" in name or "v_proj" in name for name in moving)


def run(kind: str, chosen: dict[str, Any], folder_of_policy: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """The folder of a finished run of this kind."""
    reward = rewards.from_policy(loading.load_policy(folder_of_policy))
    rewards.save_reward_model(reward, tmp_path / "reward")
    everything = [*making.demonstrations().examples, *making.feedback().examples, *making.texts().examples]
    datasets.write(tmp_path / "dataset", everything, [])
    inputs = {role: str(folder_of_policy) for role in ("parent", "reference")}
    inputs |= {"dataset": str(tmp_path / "dataset"), "reward": str(tmp_path / "reward")}
    if kind != "reward":
        inputs["evaluation_reward"] = inputs["reward"]
    settings = {"lr": 1e-2, **EVERY_METHOD[kind], **chosen}
    folder = tmp_path / "run"
    folder.mkdir()
    spec = {"kind": kind, "seed": 7, "settings_json": json.dumps(settings)}
    gates = {"win_rate": 0.5, "kl_to_anchor": 40.0, "length_ratio": 2.0, "repetition": 0.2}
    started = {"run_id": "run", "spec": spec, "inputs": inputs, "gates": gates}
    (folder / "started.json").write_text(json.dumps(started))
    job.main([str(folder)])
    return folder


def weights_of(folder: pathlib.Path, kind: str) -> pathlib.Path:
    return folder / "outputs" / {"reward": "reward", "pretrain": "base"}.get(kind, "policy") / "model.safetensors"


@pytest.mark.parametrize("kind", EVERY_METHOD)
def test_every_method_trains_adapters_and_leaves_an_ordinary_model(
    kind: str, folder_of_policy: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = run(kind, {"lora_rank": 2}, folder_of_policy, tmp_path)
    before = tensor_files.load_file(folder_of_policy / "model.safetensors")
    after = tensor_files.load_file(weights_of(folder, kind))
    assert before.keys() == after.keys() - {"score.weight"}
    changed = {weight for weight in before if not torch.equal(before[weight], after[weight])}
    assert changed and all("_proj" in weight for weight in changed)
