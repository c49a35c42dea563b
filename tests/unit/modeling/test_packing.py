"""Rows end to end, beginnings shared: the same numbers and gradients as one row at a time, at fewer positions."""

import pytest
import torch
import transformers

from trimtab.modeling import packing, tiny

torch.set_num_threads(1)
ROWS = [[5, 6, 7, 8, 9], [5, 6, 7, 1], [3, 4], [5, 6, 7, 8, 9, 2, 2], [3, 4], [8]]


def llama(dtype: torch.dtype = torch.float64) -> transformers.LlamaForCausalLM:
    return tiny.tiny_llama(40, seed=3, hidden=16, layers=2, heads=4, intermediate=24, context=32).to(dtype)


def one_by_one(backbone: torch.nn.Module) -> list[torch.Tensor]:
    return [backbone(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0] for row in ROWS]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_every_hidden_state_and_gradient_is_that_of_the_row_alone(dtype: torch.dtype, tolerance: float) -> None:
    """Beginnings are shared in fp32 only: norms round to it in fp64 too."""
    model = llama(dtype)
    torch.manual_seed(1)
    weights = [torch.randn(len(row), 16, dtype=dtype) for row in ROWS]

    expected = one_by_one(model.base_model)
    sum((hidden * weight).sum() for hidden, weight in zip(expected, weights, strict=True)).backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()

    assert packing.packs(model.base_model, 7)
    hidden_N_D, index_R_S = packing.hidden_states(model.base_model, ROWS)
    found = [hidden_N_D[index_R_S[number, : len(row)]] for number, row in enumerate(ROWS)]
    sum((hidden * weight).sum() for hidden, weight in zip(found, weights, strict=True)).backward()

    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    for name, weight in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(weight.grad, gradients[name], rtol=tolerance, atol=tolerance)


def test_what_rows_have_in_common_is_computed_once() -> None:
    layout = packing.Layout(ROWS, torch.device("cpu"))
    assert sorted(layout.ids_N.tolist()) == sorted([5, 6, 7, 8, 9, 2, 2, 1, 3, 4, 8])
    for number, row in enumerate(ROWS):
        tokens = layout.token_R_S[number, : len(row)]
        assert layout.ids_N[tokens].tolist() == row
        assert layout.positions_N[tokens].tolist() == list(range(len(row)))


def test_grouped_heads_are_packed_as_well() -> None:
    config = transformers.Qwen3Config(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=4,
        intermediate_size=24, max_position_embeddings=32,
    )  # fmt: skip
    model = transformers.Qwen3ForCausalLM(config).double().eval()
    assert packing.packs(model.base_model, 7)
    hidden_N_D, index_R_S = packing.hidden_states(model.base_model, ROWS)
    for number, expected in enumerate(one_by_one(model.base_model)):
        torch.testing.assert_close(hidden_N_D[index_R_S[number, : len(expected)]], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("longest", [4, 7])
def test_a_window_shorter_than_the_longest_row_is_not_packed(longest: int) -> None:
    config = transformers.MistralConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=24, max_position_embeddings=32, sliding_window=5,
    )  # fmt: skip
    model = transformers.MistralForCausalLM(config).double().eval()
    assert packing.packs(model.base_model, longest) == (longest <= 5)
    hidden_D, index_R_S = packing.hidden_states(model.base_model, ROWS)
    for number, expected in enumerate(one_by_one(model.base_model)):
        torch.testing.assert_close(hidden_D[index_R_S[number, : len(expected)]], expected, rtol=0, atol=1e-10)


def test_a_backbone_whose_layers_mix_neighbours_otherwise_is_fed_padded_rows() -> None:
    config = transformers.BloomConfig(vocab_size=40, hidden_size=16, n_layer=2, n_head=4)  # distances from the mask
    model = transformers.BloomForCausalLM(config).double().eval()
    assert not packing.packs(model.base_model, 7)
    hidden_D, index_R_S = packing.hidden_states(model.base_model, ROWS)
    for number, expected in enumerate(one_by_one(model.base_model)):
        torch.testing.assert_close(hidden_D[index_R_S[number, : len(expected)]], expected, rtol=0, atol=1e-10)


def test_a_prepared_model_generates_and_saves_as_before(tmp_path: object) -> None:
    model = llama()
    prompt = torch.tensor([[5, 6, 7]])
    before = model(input_ids=prompt).logits
    saved = model.config.to_dict()
    assert packing.packs(model.base_model, 7)
    assert torch.equal(model(input_ids=prompt).logits, before)
    assert model.config.to_dict() == saved
