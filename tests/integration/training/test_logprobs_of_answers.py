"""Log-probabilities agree with the model's own forward, whatever is beside an answer, and never hold all logits."""

import pytest
import torch
import transformers

from trimtab.modeling import decoder, loading, logprobs

torch.set_num_threads(1)
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 0, 14]]
# token 0 ends answers and pads; here it also stands in the middle of one
RESPONSES = [[20, 0, 21, 0], [22, 23, 24, 25, 26, 27, 0], [28]]
COMMON = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64,
    "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
CONFIGS = [
    transformers.LlamaConfig(**COMMON),
    transformers.Qwen2Config(**COMMON),
    transformers.Gemma2Config(**COMMON, head_dim=8, final_logit_softcapping=3.0),
    transformers.GraniteConfig(**COMMON, logits_scaling=7.0),
    transformers.CohereConfig(**COMMON, logit_scale=0.3),
]


def model_of(config: transformers.PretrainedConfig) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
    # larger weights than a fresh model's, so that caps and scales of the logits show
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5.0)
    return model.double().eval()


@pytest.fixture(scope="module")
def llama() -> torch.nn.Module:
    return model_of(CONFIGS[0])


def own_forward(model: torch.nn.Module, prompt: list[int], response: list[int]) -> torch.Tensor:
    """The model's public forward on one unpadded row."""
    logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(response).unsqueeze(1)).squeeze(1)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_equal_to_the_models_own_forward(config: transformers.PretrainedConfig) -> None:
    model = model_of(config)
    with torch.no_grad():
        ours = logprobs.response_logprobs(model, PROMPTS, RESPONSES)
        for row, prompt, response in zip(ours, PROMPTS, RESPONSES, strict=True):
            torch.testing.assert_close(row, own_forward(model, prompt, response), rtol=0, atol=1e-12)


def test_neighbours_and_order_do_not_matter(llama: torch.nn.Module) -> None:
    together = logprobs.response_logprobs(llama, PROMPTS, RESPONSES)
    backwards = logprobs.response_logprobs(llama, PROMPTS[::-1], RESPONSES[::-1])[::-1]
    for i, row in enumerate(together):
        alone = logprobs.response_logprobs(llama, [PROMPTS[i]], [RESPONSES[i]])[0]
        torch.testing.assert_close(row, alone, rtol=0, atol=1e-12)
        torch.testing.assert_close(row, backwards[i], rtol=0, atol=1e-12)


def test_padding_on_the_left_with_a_mask_gives_the_same(llama: torch.nn.Module) -> None:
    rows = [prompt + response for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.arange(width) >= width - torch.tensor([len(row) for row in rows]).unsqueeze(1)
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    logits = llama(ids, attention_mask=mask.long(), position_ids=positions).logits.log_softmax(-1)
    for i, (row, response) in enumerate(
        zip(logprobs.response_logprobs(llama, PROMPTS, RESPONSES), RESPONSES, strict=True)
    ):
        left = logits[i, -len(response) - 1 : -1].gather(1, torch.tensor(response).unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(row, left, rtol=0, atol=1e-12)


def test_chunked_logits_give_the_same_values_and_gradients_and_are_never_whole(llama: torch.nn.Module) -> None:
    held: list[int] = []
    watch = llama.get_output_embeddings().register_forward_hook(
        lambda module, args, out: held.append(out.shape[:-1].numel())
    )
    gradients = []
    for chunk in (None, 2):
        held.clear()
        llama.zero_grad()
        rows = logprobs.response_logprobs(llama, PROMPTS, RESPONSES, chunk=chunk)
        torch.cat(rows).square().sum().backward()
        gradients.append([weight.grad.clone() for weight in llama.parameters()])
        # positions of the prompts have no logits at all
        assert max(held) == (chunk or sum(map(len, RESPONSES)))
    watch.remove()
    for whole, chunked in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, chunked, rtol=0, atol=1e-12)


def test_an_empty_prompt_is_refused(llama: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        logprobs.response_logprobs(llama, [[]], [[1]])


def test_what_the_sampler_reports_recomputes(policy: loading.LoadedPolicy) -> None:
    prompts = [tuple(prompt) for prompt in PROMPTS]
    requests = [decoder.DecodeRequest(prompt, 12, seed=seed) for seed, prompt in enumerate(prompts * 4)]
    drawn = decoder.decode_all(policy.model, policy.tokenizer, requests)
    with torch.no_grad():
        rows = logprobs.response_logprobs(policy.model, prompts * 4, [one.token_ids for one in drawn])
    for one, row in zip(drawn, rows, strict=True):
        assert one.logprobs_raw == pytest.approx(row.tolist(), abs=1e-4)
