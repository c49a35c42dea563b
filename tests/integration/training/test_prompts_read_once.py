"""Answers to one prompt that are read together get the log-probabilities, and give the gradients, of each alone."""

import pytest
import torch
import transformers

from trimtab.modeling import logprobs, packing

torch.set_num_threads(1)
# token 0 ends answers and pads; an answer may be that token alone
PROMPTS = [[5, 6, 7], [5, 6, 7], [8], [8], [8], [9, 10, 11, 12, 13, 0, 14, 15, 16, 17]]
ANSWERS = [[20, 0, 21, 0], [22, 0], [0], [23, 24, 25, 26, 0], [27, 0], [28, 0]]
COMMON = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64,
    "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
PACKED = [
    transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=64, eos_token_id=0),
    transformers.GPTNeoXConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    ),
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
    return model.eval()


def gradient(model: torch.nn.Module, values: torch.Tensor) -> torch.Tensor:
    """Of a sum in which every value weighs differently."""
    model.zero_grad()
    (values * torch.linspace(0.5, 1.5, len(values), dtype=values.dtype)).sum().backward()
    return torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])


def alone(model: torch.nn.Module) -> torch.Tensor:
    """Every answer after its own copy of the prompt, through the model's own forward pass."""
    rows = []
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        logits_S_V = model(torch.tensor([[*prompt, *answer[:-1]]]), use_cache=False).logits[0]
        rows.append(logits_S_V.log_softmax(-1)[len(prompt) - 1 :].gather(1, torch.tensor(answer).unsqueeze(1))[:, 0])
    return torch.cat(rows)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
@pytest.mark.parametrize("config", [*PACKED, *ALONE], ids=lambda config: config.model_type)
def test_values_and_gradients_are_those_of_each_answer_alone(
    config: transformers.PretrainedConfig, dtype: torch.dtype, tolerance: float
) -> None:
    """Prompts are shared in fp32 only: the norms of many models round to it in fp64 too."""
    model = model_of(config).to(dtype)
    together, apart = logprobs.flat_logprobs(model, PROMPTS, ANSWERS), alone(model)
    assert packing.packs(model.base_model, longest=12) is (config in PACKED)
    torch.testing.assert_close(together.detach(), apart.detach(), rtol=tolerance, atol=tolerance)
    one, other = gradient(model, together), gradient(model, apart)
    assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize("worth_a_call", [1, 30, 10_000])
def test_rows_of_unlike_length_that_are_set_side_by_side_apart_give_the_same(
    worth_a_call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_WORTH_A_CALL", worth_a_call)
    model = model_of(PACKED[0]).to(torch.float64)
    rows = [[*prompt, *answer] for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    groups = len(packing.Layout(rows, torch.device("cpu")).sides)
    assert groups == len(set(map(len, rows))) if worth_a_call == 1 else groups < len(rows)
    together, apart = logprobs.flat_logprobs(model, PROMPTS, ANSWERS), alone(model)
    torch.testing.assert_close(together.detach(), apart.detach(), rtol=1e-8, atol=1e-8)
    one, other = gradient(model, together), gradient(model, apart)
    assert (one - other).norm() <= 1e-8 * other.norm()


def test_a_group_ends_where_shorter_rows_would_save_a_call() -> None:
    lengths = [10, 100, 12, 98, 11, 100]
    assert packing._of_like_length(lengths) == [[1, 3, 5], [0, 2, 4]]
    assert packing._of_like_length([10, 12]) == [[0, 1]]


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        logprobs.flat_logprobs(model_of(PACKED[0]), [[], []], [[1, 0], [2, 0]])


def test_answers_to_one_prompt_stay_together_and_batches_within_their_size() -> None:
    lengths, prompts = [9, 3, 7, 4, 9, 2, 8, 5], ["a", "b", "c", "b", "c", "a", "a", "b"]
    batches = list(logprobs.batches_by_length(lengths, 27, groups=prompts))
    assert batches == [[0, 6, 5], [4, 2, 7], [3, 1]]
    assert all(len(batch) * max(lengths[i] for i in batch) <= 27 for batch in batches)
