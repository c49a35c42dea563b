"""The losses give the numbers of the reference cases (computed independently, float64), and their gradients."""

import math

import pytest
import torch

from trimtab.trainer.recipes import on_policy
from trimtab.trainer.reward import likelihoods
from trimtab.trainer.steps import losses

torch.set_num_threads(1)
EXACT = {"rtol": 0.0, "atol": 1e-9}


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("gap", "nll"),
    [
        (0.0, 0.6931471806),
        (0.5, 0.4740769842),
        (1.0, 0.3132616875),
        (2.0, 0.1269280110),
        (-1.0, 1.3132616875),
        (-1000.0, 1000.0),
    ],
)
def test_bradley_terry_reference_gaps(gap: float, nll: float) -> None:
    torch.testing.assert_close(likelihoods.bradley_terry_nll(f64(gap)), f64(nll), **EXACT)


def test_bradley_terry_stays_finite_in_fp32_where_log_of_exp_is_infinite() -> None:
    gaps = torch.tensor([-90.0, -1e4], requires_grad=True)
    nll = likelihoods.bradley_terry_nll(gaps)
    nll.sum().backward()
    assert nll.tolist() == [90.0, 1e4]
    assert gaps.grad is not None and gaps.grad.tolist() == [-1.0, -1.0]


@pytest.mark.parametrize(("margin", "nll"), [(1.0, 0.5981388694), (3.0, 1.9529776105)])
def test_bradley_terry_heeds_the_margin(margin: float, nll: float) -> None:
    torch.testing.assert_close(likelihoods.bradley_terry_nll(f64(1.2), f64(margin)), f64(nll), **EXACT)


def test_bradley_terry_soft_label() -> None:
    torch.testing.assert_close(likelihoods.bradley_terry_nll(f64(0.5), agreement=0.7), f64(0.6240769842), **EXACT)


def test_centre_term() -> None:
    torch.testing.assert_close(likelihoods.centre_penalty(f64(1.0), f64(-0.5), 0.01), f64(0.0025), **EXACT)


def test_a_zero_head_costs_ln_2_for_pairs_and_thumbs() -> None:
    zeros, ups = f64(0.0, 0.0), f64(1.0, 0.0)
    expected = f64(math.log(2), math.log(2))
    torch.testing.assert_close(likelihoods.bradley_terry_nll(zeros), expected, **EXACT)
    torch.testing.assert_close(likelihoods.thumb_nll(zeros, ups, f64(1.0), zeros), expected, **EXACT)


def test_thumb_is_bernoulli_in_slope_reward_and_intercept() -> None:
    nll = likelihoods.thumb_nll(f64(2.0, 2.0), f64(1.0, 0.0), f64(0.5), f64(-0.7, -0.7))
    p = 1 / (1 + math.exp(-(0.5 * 2.0 - 0.7)))
    torch.testing.assert_close(nll, f64(-math.log(p), -math.log(1 - p)), **EXACT)


def test_thumb_far_out_is_linear_not_infinite() -> None:
    nll = likelihoods.thumb_nll(f64(-1000.0), f64(1.0), f64(1.0), f64(0.0))
    torch.testing.assert_close(nll, f64(1000.0), **EXACT)


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "has_gradient", "dual_clip"),
    [
        (1.0, 1.0, 1.0, True, None),
        (1.3, 1.0, 1.2, False, None),
        (0.7, 1.0, 0.7, True, None),
        (1.3, -1.0, -1.3, True, None),
        (0.7, -1.0, -0.8, False, None),
        (5.0, -1.0, -5.0, True, None),
        (5.0, -1.0, -3.0, False, 3.0),
        (5.0, 1.0, 1.2, False, 3.0),
    ],
)
def test_ppo_clip_reference_cases(
    ratio: float, advantage: float, objective: float, has_gradient: bool, dual_clip: float | None
) -> None:
    logprobs = f64(math.log(ratio)).requires_grad_()
    terms = losses.clipped_policy_loss(logprobs, f64(0.0), f64(advantage), clip=0.2, dual_clip=dual_clip)
    terms.loss_N.sum().backward()
    torch.testing.assert_close(-terms.loss_N.detach(), f64(objective), **EXACT)
    assert logprobs.grad is not None and bool(logprobs.grad.item() != 0) is has_gradient
    assert terms.clipped_N.item() is not has_gradient


def test_ppo_starts_at_ratio_one_with_nothing_clipped_and_the_plain_policy_gradient() -> None:
    advantages = f64(0.3, -1.2, 2.0)
    logprobs = f64(-1.0, -2.0, -3.0).requires_grad_()
    terms = losses.clipped_policy_loss(logprobs, logprobs.detach(), advantages, clip=0.2, dual_clip=3.0)
    terms.loss_N.sum().backward()
    torch.testing.assert_close(terms.loss_N.detach(), -advantages, **EXACT)
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, -advantages, **EXACT)
    assert not terms.clipped_N.any()


def test_an_exploded_ratio_overflows_neither_loss_nor_gradient() -> None:
    logprobs = torch.tensor([0.0, 0.0], requires_grad=True)
    terms = losses.clipped_policy_loss(logprobs, torch.tensor([-500.0, -500.0]), torch.tensor([1.0, -1.0]), 0.2, 3.0)
    terms.loss_N.sum().backward()
    assert torch.isfinite(terms.loss_N).all()
    assert logprobs.grad is not None and torch.isfinite(logprobs.grad).all()


def test_value_clip_reference_cases() -> None:
    values = f64(0.65, 1.0).requires_grad_()
    loss = losses.clipped_value_loss(values, f64(0.3, 0.5), f64(0.7, 0.6), clip=0.2)
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), f64(0.02, 0.08), **EXACT)
    assert values.grad is not None
    torch.testing.assert_close(values.grad, f64(0.0, 0.4), **EXACT)


def test_token_mean_reference_case_and_any_split_of_the_batch() -> None:
    terms = f64(1.0, 1.0, 1.0, 1.0, 3.0)
    whole = losses.token_mean(terms, 5)
    torch.testing.assert_close(whole, torch.tensor(1.4, dtype=torch.float64), **EXACT)
    for split in range(1, 5):
        parts = losses.token_mean(terms[:split], 5) + losses.token_mean(terms[split:], 5)
        torch.testing.assert_close(parts, whole, **EXACT)


FIVE, LENGTHS = f64(1.0, 1.0, 1.0, 1.0, 3.0), (4, 1)
HOW = {on_policy.TOKEN_MEAN: 1.4, on_policy.SEQUENCE_MEAN: 2.0, on_policy.CONSTANT_LENGTH: 0.875}


@pytest.mark.parametrize("how", HOW)
def test_aggregation_reference_cases_whole_split_and_in_another_order(how: str) -> None:
    whole = losses.Whole(tokens=5, answers=2, longest=4)
    expected = torch.tensor(HOW[how], dtype=torch.float64)
    torch.testing.assert_close(losses.aggregated(FIVE, LENGTHS, how, whole), expected, **EXACT)
    parts = (FIVE[4:], (1,)), (FIVE[:4], (4,))
    torch.testing.assert_close(sum(losses.aggregated(*part, how, whole) for part in parts), expected, **EXACT)


@pytest.mark.parametrize("how", HOW)
def test_an_answer_without_a_token_adds_nothing_but_itself_to_the_count(how: str) -> None:
    whole, counted = losses.Whole(tokens=5, answers=2, longest=4), losses.Whole(tokens=5, answers=3, longest=4)
    share = 1.0 if how == on_policy.TOKEN_MEAN else 2 / 3
    found = losses.aggregated(FIVE, (4, 0, 1), how, counted)
    torch.testing.assert_close(found, share * losses.aggregated(FIVE, LENGTHS, how, whole), **EXACT)


def test_the_plain_policy_gradient_is_minus_the_advantage() -> None:
    logprobs = f64(-1.0, -1000.0, -3.0).requires_grad_()
    terms = losses.policy_gradient_loss(logprobs, f64(0.3, -1.2, 2.0))
    terms.loss_N.sum().backward()
    assert logprobs.grad is not None and not terms.clipped_N.any()
    torch.testing.assert_close(logprobs.grad, f64(-0.3, 1.2, -2.0), **EXACT)


def test_importance_weights_are_ratios_up_to_their_cap_and_finite_at_any_log_ratio() -> None:
    trained, drawn = f64(math.log(0.3), math.log(0.9), -1000.0, 0.0), f64(math.log(0.6), math.log(0.3), 0.0, -1000.0)
    weights = losses.truncated_weights(trained, drawn, cap=2.0)
    torch.testing.assert_close(weights, f64(0.5, 2.0, math.exp(-20), 2.0), **EXACT)


def test_capped_weights_let_the_expectation_under_the_sampler_be_that_under_the_policy() -> None:
    """Where no ratio is above the cap: sum mu w f = sum pi f."""
    sampler, policy, value = f64(0.5, 0.3, 0.2), f64(0.3, 0.4, 0.3), f64(1.0, -2.0, 5.0)
    weights = losses.truncated_weights(policy.log(), sampler.log(), cap=2.0)
    torch.testing.assert_close((sampler * weights * value).sum(), (policy * value).sum(), **EXACT)


def test_the_effective_share_is_one_for_equal_weights_and_one_over_n_for_a_single_one() -> None:
    assert losses.effective_share(f64(0.7, 0.7, 0.7)) == pytest.approx(1.0)
    assert losses.effective_share(f64(1.0, 0.0, 0.0, 0.0)) == pytest.approx(0.25)
    assert losses.effective_share(f64(2.0, 1.0)) == pytest.approx(0.9)
    assert losses.effective_share(f64(0.0, 0.0)) == 0.0


@pytest.mark.parametrize("ratio", [-1000.0, 1000.0])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_the_clipped_loss_and_its_gradient_are_finite_at_any_log_ratio(ratio: float, advantage: float) -> None:
    logprobs = torch.tensor([-3.0], requires_grad=True)
    terms = losses.clipped_policy_loss(logprobs, logprobs.detach() - ratio, torch.tensor([advantage]), 0.2)
    terms.loss_N.sum().backward()
    assert torch.isfinite(terms.loss_N).all()
    assert logprobs.grad is not None and torch.isfinite(logprobs.grad).all()
