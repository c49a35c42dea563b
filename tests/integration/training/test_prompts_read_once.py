"""Answers to one prompt that are read in one row get the log-probabilities, and give the gradients, of each alone."""

import pytest
import torch
import transformers

from trimtab.modeling import logprobs, shared_prompts

torch.set_num_threads(1)
# token 0 ends answers and pads; an answer may be that token alone
GROUPS: list[shared_prompts.Group] = [
    ([5, 6, 7], [[20, 0, 21, 0], [22, 0]]),
    ([8], [[0], [23, 24, 25, 26, 0], [27, 0]]),
    ([9, 10, 11, 12, 13, 0, 14, 15, 16, 17], [[28, 0]]),
]
COMMON = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64,
    "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
EXACT = [
    transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=64, eos_token_id=0),
    transformers.GPTNeoXConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    ),
]
# their norms work in fp32 whatever the weights are: a prompt's gradient, summed before them or after, differs by that
SHARING = [
    *EXACT,
    transformers.LlamaConfig(**COMMON),
    transformers.Qwen2Config(**COMMON),
    transformers.GraniteConfig(**COMMON, logits_scaling=7.0),
    transformers.CohereConfig(**COMMON, logit_scale=0.3),
]
# a window that slides, and distances that are counted along the row
ALONE = [
    transformers.MistralConfig(**COMMON, sliding_window=4),
    transformers.Gemma2Config(**COMMON, head_dim=8, sliding_window=4),
    transformers.BloomConfig(vocab_size=40, hidden_size=16, n_layer=2, n_head=2),
    transformers.FalconConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, alibi=True),
]


def model_of(config: transformers.PretrainedConfig) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)
    return model.double().eval()


def gradient(model: torch.nn.Module, values: torch.Tensor) -> torch.Tensor:
    """Of a sum in which every value weighs differently."""
    model.zero_grad()
    (values * torch.linspace(0.5, 1.5, len(values), dtype=torch.float64)).sum().backward()
    return torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])


def alone(model: torch.nn.Module) -> torch.Tensor:
    """Every answer after its own copy of the prompt, in a forward pass of its own."""
    return torch.cat(
        [logprobs.flat_logprobs(model, [prompt], [answer]) for prompt, answers in GROUPS for answer in answers]
    )


@pytest.mark.parametrize("config", [*SHARING, *ALONE], ids=lambda config: config.model_type)
def test_values_and_gradients_are_those_of_each_answer_alone(config: transformers.PretrainedConfig) -> None:
    model = model_of(config)
    assert shared_prompts.can_share(model) is (config in SHARING)
    together, apart = shared_prompts.flat_logprobs(model, GROUPS), alone(model)
    tolerance = 1e-10 if config in EXACT else 1e-6
    torch.testing.assert_close(together.detach(), apart.detach(), rtol=0, atol=tolerance)
    one, other = gradient(model, together), gradient(model, apart)
    assert (one - other).norm() <= tolerance * other.norm()


def test_what_a_model_that_cannot_share_would_give_in_one_row_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the fallback is needed, and the tolerance above tells the difference."""
    monkeypatch.setattr(shared_prompts, "can_share", lambda _: True)
    model = model_of(ALONE[0])
    difference = shared_prompts.flat_logprobs(model, GROUPS) - alone(model)
    assert difference.abs().max() > 1e-3


def test_the_order_of_groups_and_of_answers_changes_no_value() -> None:
    model = model_of(SHARING[0])
    turned: list[shared_prompts.Group] = [(prompt, answers[::-1]) for prompt, answers in GROUPS[::-1]]
    values = torch.split(shared_prompts.flat_logprobs(model, GROUPS), [4, 2, 1, 5, 2, 2])
    again = torch.split(shared_prompts.flat_logprobs(model, turned), [2, 2, 5, 1, 2, 4])
    for one, other in zip(values, again[::-1], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        shared_prompts.flat_logprobs(model_of(SHARING[0]), [([], [[1, 0], [2, 0]])])
