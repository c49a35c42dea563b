"""Sampling agrees with a naive reference, row by row, whatever the other rows ask for."""

import collections
import math
import random

import pytest
import torch

from trimtab.modeling import sampling

torch.set_num_threads(1)

VOCABULARY = 300


def reference(logits: list[float], params: sampling.SamplingParams) -> list[float]:
    """Probabilities after temperature, top-k, then top-p, in plain Python."""
    scaled = [logit / params.temperature for logit in logits]
    order = sorted(range(len(scaled)), key=lambda token: -scaled[token])
    if params.top_k:
        order = order[: params.top_k]
    weights = {token: math.exp(scaled[token] - scaled[order[0]]) for token in order}
    total = sum(weights.values())
    kept, mass = {}, 0.0
    for token in order:
        if mass >= params.top_p:
            break
        kept[token] = weights[token] / total
        mass += kept[token]
    total = sum(kept.values())
    return [kept.get(token, 0.0) / total for token in range(len(logits))]


def settings(seed: int) -> sampling.SamplingParams:
    chooser = random.Random(seed)
    return sampling.SamplingParams(
        temperature=chooser.choice([0.3, 0.8, 1.0, 1.7]),
        top_p=chooser.choice([1.0, 1.0, 0.05, 0.5, 0.95, 0.999]),
        top_k=chooser.choice([0, 0, 1, 5, 150, 299, 1000]),
    )


@pytest.mark.parametrize("spread", [0.2, 3.0])
def test_every_row_gets_the_distribution_it_asked_for(spread: float) -> None:
    rows = [settings(seed) for seed in range(40)]
    logits = torch.randn(len(rows), VOCABULARY, generator=torch.Generator().manual_seed(1)) * spread
    shaped = sampling.shape(logits, sampling.BatchParams.of(rows, logits.device)).softmax(-1)
    for row, params in enumerate(rows):
        expected = torch.tensor(reference(logits[row].tolist(), params))
        torch.testing.assert_close(shaped[row], expected, atol=1e-5, rtol=1e-3)


def test_draws_follow_the_distribution() -> None:
    params = [sampling.SamplingParams(temperature=0.8, top_k=4)] * 20_000
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0]).expand(len(params), 5)
    uniforms = [sampling.generator(seed).random() for seed in range(len(params))]
    draws = sampling.draw(logits, logits, sampling.BatchParams.of(params, logits.device), uniforms)
    counts = collections.Counter(draws.tokens_B.tolist())
    for token, share in enumerate(reference(logits[0].tolist(), params[0])):
        assert counts[token] / len(params) == pytest.approx(share, abs=0.012)
    assert counts[4] == 0


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1.0 - 2.0**-53])
def test_a_token_of_probability_zero_is_never_drawn(uniform: float) -> None:
    probs = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0, 0.0]])
    assert sampling.invert_cdf(probs, torch.tensor([uniform], dtype=torch.float64)).item() in (1, 3)


def test_a_greedy_row_takes_the_largest_and_its_neighbour_still_samples() -> None:
    logits = torch.tensor([[0.0, 1.0, 0.9], [0.0, 1.0, 0.9]])
    rows = [sampling.SamplingParams(temperature=0.0, top_k=2), sampling.SamplingParams()]
    draws = sampling.draw(logits, logits, sampling.BatchParams.of(rows, logits.device), [0.99, 0.99])
    assert draws.tokens_B.tolist() == [1, 2]
    assert draws.sampled_B[0].item() == 0.0
    expected = logits.log_softmax(-1)
    assert draws.raw_B.tolist() == pytest.approx([expected[0, 1].item(), expected[1, 2].item()])


def test_penalties_are_those_of_openai() -> None:
    params = sampling.SamplingParams(presence_penalty=0.5, frequency_penalty=0.25)
    penalised = sampling.penalise(torch.zeros(4), [2, 2, 0], params)
    assert penalised.tolist() == [-0.75, 0.0, -1.0, 0.0]
    assert sampling.penalise(torch.zeros(4), [], params).tolist() == [0.0] * 4


def test_raw_log_probs_ignore_penalties_and_temperature() -> None:
    logits = torch.tensor([[1.0, 0.0, 2.0]])
    params = [sampling.SamplingParams(temperature=0.5, frequency_penalty=1.0)]
    shaped = sampling.penalise(logits[0], [2, 2, 2, 2], params[0])[None]
    draws = sampling.draw(logits, shaped, sampling.BatchParams.of(params, logits.device), [0.0])
    assert draws.tokens_B.tolist() == [0]
    assert draws.raw_B.item() == pytest.approx(logits.log_softmax(-1)[0, 0].item())
    assert draws.sampled_B.item() == pytest.approx((shaped / 0.5).log_softmax(-1)[0, 0].item())
