"""What is saved is what is loaded and rendered; what must not be loaded is refused with a reason."""

import json
import pathlib
from typing import Any

import pytest
import torch

from trimtab.core import errors, text
from trimtab.modeling import chat, loading, tiny

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.train_bpe(["How do I change the tone? Open Sound."], 280)


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return tiny.tiny_llama(len(tokenizer), 1, hidden=16, layers=1, heads=2, intermediate=16, context=64)


def message(role: str, content: str) -> text.Message:
    return text.Message(text.Role(role), text.Text(content))


def test_a_saved_policy_loads_with_its_weights_profile_and_template(
    model: Any, tokenizer: Any, tmp_path: pathlib.Path
) -> None:
    profile = loading.ServingProfile("Be brief.", temperature=0.7, top_p=0.9, top_k=5, max_tokens=9, stop=("\n",))
    loading.save_policy(model, tokenizer, profile, tmp_path)
    loaded = loading.load_policy(tmp_path)
    assert loaded.profile == profile
    assert not loaded.model.training
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight)
    asked = [message("user", "How do I change the tone?")]
    assert chat.encode_prompt(loaded.tokenizer, asked, profile) == chat.encode_prompt(tokenizer, asked, profile)
    assert loading.end_token_ids(loaded.model, loaded.tokenizer) == {tokenizer.eos_token_id}
    assert loading.context_tokens(loaded.model) == 64


def test_weights_in_bf16_are_served_in_fp32(model: Any, tokenizer: Any, tmp_path: pathlib.Path) -> None:
    half = tiny.tiny_llama(len(tokenizer), 1, hidden=16, layers=1, heads=2, intermediate=16).to(torch.bfloat16)
    loading.save_policy(half, tokenizer, loading.ServingProfile(), tmp_path)
    assert loading.load_policy(tmp_path).model.dtype is torch.float32
    assert loading.load_policy(tmp_path, torch.bfloat16).model.dtype is torch.bfloat16


def test_pickled_weights_are_refused(model: Any, tokenizer: Any, tmp_path: pathlib.Path) -> None:
    loading.save_policy(model, tokenizer, loading.ServingProfile(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(errors.ArtifactCorrupt, match="safetensors"):
        loading.load_policy(tmp_path)


def test_a_folder_that_is_no_model_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.ArtifactCorrupt, match=r"config\.json"):
        loading.load_policy(tmp_path)


def test_without_a_profile_the_authors_sampling_settings_hold(tmp_path: pathlib.Path) -> None:
    assert loading.load_profile(tmp_path) == loading.ServingProfile()
    authors = {"do_sample": True, "temperature": 0.2, "top_p": 0.9, "eos_token_id": 2}
    (tmp_path / "generation_config.json").write_text(json.dumps(authors))
    assert loading.load_profile(tmp_path) == loading.ServingProfile(temperature=0.2, top_p=0.9)


@pytest.mark.parametrize("content", ["{", "[]", '{"temprature": 1}'])
def test_a_wrong_profile_is_refused(tmp_path: pathlib.Path, content: str) -> None:
    (tmp_path / loading.PROFILE_FILE).write_text(content)
    with pytest.raises(errors.ArtifactCorrupt, match=r"profile\.json"):
        loading.load_profile(tmp_path)


def test_the_profiles_system_prompt_leads_unless_the_conversation_has_one(tokenizer: Any) -> None:
    profile = loading.ServingProfile(system_prompt="Be brief.")
    user = message("user", "Hi")
    assert tokenizer.decode(chat.encode_prompt(tokenizer, [user], profile)) == (
        "<|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>"
    )
    own = [message("system", "Be long."), user]
    assert tokenizer.decode(chat.encode_prompt(tokenizer, own, profile)) == (
        "<|system|>Be long.<|end|><|user|>Hi<|end|><|assistant|>"
    )


def test_a_conversation_the_template_refuses_is_the_callers_error(tokenizer: Any) -> None:
    strict = tiny.train_bpe(["x"], 270)
    strict.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(errors.InvalidField, match="roles must alternate"):
        chat.encode_prompt(strict, [message("user", "Hi")], loading.ServingProfile())
    strict.chat_template = None
    with pytest.raises(errors.ArtifactCorrupt, match="chat template"):
        chat.encode_prompt(strict, [message("user", "Hi")], loading.ServingProfile())


def test_the_same_seed_makes_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, second, other = (
        tiny.tiny_llama(50, seed, hidden=8, layers=1, heads=1, intermediate=8) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
