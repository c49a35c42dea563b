"""bfloat16: matrix products round, what they belong to does not move, and what a run leaves is fp32 and ordinary."""

import json
import pathlib

import pytest
import torch
from safetensors import torch as tensor_files
from tests.integration.training import making, test_low_rank_adapters

from trimtab.modeling import heads, loading, logprobs, precision, rewards
from trimtab.trainer.data import encoding

PROMPTS, ANSWERS = test_low_rank_adapters.PROMPTS, test_low_rank_adapters.ANSWERS
# DESIGN: what bfloat16 engines were seen to differ by, nats a token
NOISE = 0.06
# a figure in nats that is 0 while the policy is its reference
START = dict.fromkeys(("ppo", "a2c", "rloo", "grpo"), "kl_nats")
START |= {"dpo": "log_ratio_chosen_nats", "kto": "log_ratio_desirable_nats"}


def gradient(policy: loading.LoadedPolicy) -> torch.Tensor:
    policy.model.zero_grad()
    logprobs.flat_logprobs(policy.model, PROMPTS, ANSWERS).sum().backward()
    return torch.cat([weight.grad.flatten() for weight in policy.model.parameters() if weight.grad is not None])


def test_it_rounds_and_restored_it_does_not(policy: loading.LoadedPolicy) -> None:
    values, slope = test_low_rank_adapters.values(policy.model), gradient(policy)
    precision.lower(policy.model)
    rounded = test_low_rank_adapters.values(policy.model)
    assert 1e-6 < (rounded - values).abs().max() < NOISE
    assert torch.cosine_similarity(gradient(policy), slope, dim=0) > 0.99
    assert {weight.dtype for weight in policy.model.parameters()} == {torch.float32}
    precision.restore(policy.model)
    assert torch.equal(test_low_rank_adapters.values(policy.model), values)


def test_what_does_not_move_is_held_in_it_and_rounds_alike(policy: loading.LoadedPolicy) -> None:
    precision.lower(policy.model)
    moving = test_low_rank_adapters.values(policy.model)
    precision.restore(policy.model)
    policy.model.requires_grad_(False)
    precision.lower(policy.model)
    layers = [one for one in policy.model.base_model.modules() if isinstance(one, torch.nn.Linear)]
    assert layers and all(one.weight.dtype == torch.bfloat16 for one in layers)
    assert torch.equal(test_low_rank_adapters.values(policy.model), moving)


def test_heads_of_reward_models_do_not_round(policy: loading.LoadedPolicy) -> None:
    reward = rewards.from_policy(policy)
    torch.nn.init.normal_(reward.model.score.weight)
    precision.lower(reward.model)
    encoded = encoding.encoder_of(policy).encode(encoding.messages_of(making.prompt("red")), making.RUDE)
    features_B_D = heads.features_at_last(reward.model, [encoded])
    assert features_B_D.dtype == reward.model.score(features_B_D).dtype == torch.float32


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("kind", test_low_rank_adapters.EVERY_METHOD)
def test_every_method_starts_at_its_reference_and_leaves_weights_in_fp32(
    kind: str, rank: int, folder_of_policy: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = test_low_rank_adapters.run(kind, {"precision": "bfloat16", "lora_rank": rank}, folder_of_policy, tmp_path)
    rows = [json.loads(row)["figures"] for row in (folder / "metrics.jsonl").read_text().splitlines()]
    name = START.get(kind)
    if name:
        told = [row[name] for row in rows if name in row]
        assert abs(told[0]) < 1e-3 < max(map(abs, told))
    after = tensor_files.load_file(test_low_rank_adapters.weights_of(folder, kind))
    assert {weight.dtype for weight in after.values()} == {torch.float32}
