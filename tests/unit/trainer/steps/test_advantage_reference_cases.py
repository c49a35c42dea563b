"""GAE, whitening, reward assembly and KL give the numbers of the reference cases, and hold the known traps shut."""

import math

import pytest
import torch

from trimtab.trainer.steps import advantages, kl

torch.set_num_threads(1)
EXACT = {"rtol": 0.0, "atol": 1e-9}
# the case is printed with eight digits
EIGHT_DIGITS = {"rtol": 0.0, "atol": 5.1e-9}


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def all_of(like: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(like, dtype=torch.bool)


def test_gae_reference_case_undiscounted() -> None:
    values = row(0.5, 0.4, 0.3)
    result = advantages.generalised(row(0, 0, 1), values, all_of(values), gamma=1.0, lam=0.95)
    torch.testing.assert_close(result.advantages_B_T, row(0.43675, 0.565, 0.7), **EXACT)
    torch.testing.assert_close(result.returns_B_T, row(0.93675, 0.965, 1.0), **EXACT)


def test_gae_reference_case_discounted() -> None:
    values = row(0.1, 0.2, 0.3, 0.4)
    result = advantages.generalised(row(-0.02, 0.01, -0.03, 0.95), values, all_of(values), gamma=0.99, lam=0.9)
    torch.testing.assert_close(result.advantages_B_T, row(0.61477453, 0.60244055, 0.55605, 0.55), **EIGHT_DIGITS)


@pytest.mark.parametrize("at_the_gap", [0.9, math.nan, math.inf])
def test_gae_skips_an_observation_gap_whatever_stands_there(at_the_gap: float) -> None:
    mask = torch.tensor([[True, True, False, True]])
    result = advantages.generalised(row(0, 0, at_the_gap, 1), row(0.5, 0.4, at_the_gap, 0.3), mask, 1.0, 0.95)
    torch.testing.assert_close(result.advantages_B_T, row(0.43675, 0.565, 0.0, 0.7), **EXACT)
    assert result.returns_B_T[0, 2] == 0.0


def test_gae_of_a_row_does_not_depend_on_its_padding() -> None:
    values, rewards = row(0.5, 0.4, 0.3), row(0, 0, 1)
    alone = advantages.generalised(rewards, values, all_of(values), 1.0, 0.95)
    mask = torch.tensor([[True, True, True, False, False]])
    padded = advantages.generalised(row(0, 0, 1, 7, 7), row(0.5, 0.4, 0.3, 9, 9), mask, 1.0, 0.95)
    torch.testing.assert_close(padded.advantages_B_T[:, :3], alone.advantages_B_T, **EXACT)
    assert padded.advantages_B_T[0, 3:].tolist() == [0.0, 0.0]


def test_whitening_uses_the_population_deviation() -> None:
    whitened = advantages.whitened(row(0.43675, 0.565, 0.7)[0])
    torch.testing.assert_close(whitened, row(-1.21414341, -0.02093351, 1.23507691)[0], **EIGHT_DIGITS)


def test_whitening_one_token_or_equal_tokens_gives_zeros_not_nan() -> None:
    assert advantages.whitened(row(3.0)[0]).tolist() == [0.0]
    assert advantages.whitened(row(2.0, 2.0)[0]).tolist() == [0.0, 0.0]


def test_reward_assembly_reference_case() -> None:
    mask = torch.tensor([[True, True, True, False]])
    rewards = advantages.assemble_rewards(torch.tensor([2.0], dtype=torch.float64), row(0.1, 0.2, 0.3, 0.0), mask, 0.1)
    torch.testing.assert_close(rewards, row(-0.01, -0.02, 1.97, 0.0), **EXACT)


def test_the_score_sits_on_the_last_response_token_of_each_row_and_pads_get_nothing() -> None:
    mask = advantages.mask_of([1, 3, 2])
    noise = torch.full((3, 3), math.nan, dtype=torch.float64)
    kl_terms = torch.where(mask, 0.0, noise)
    rewards = advantages.assemble_rewards(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), kl_terms, mask, 0.5)
    assert rewards.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, 3.0, 0.0]]


def test_a_row_in_which_nothing_is_left_gets_nothing_and_changes_no_other() -> None:
    """An answer of no token, or one that is masked whole, beside the reference case; what stands there is no number."""
    mask, noise = advantages.mask_of([3, 0]), row(math.nan, math.nan, math.nan)
    scores = torch.tensor([1.0, math.nan], dtype=torch.float64)
    rewards = advantages.assemble_rewards(scores, torch.cat((row(0, 0, 0), noise)), mask, 0.1)
    assert rewards.tolist() == [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    found = advantages.generalised(rewards, torch.cat((row(0.5, 0.4, 0.3), noise)), mask, 1.0, 0.95)
    torch.testing.assert_close(found.advantages_B_T, torch.cat((row(0.43675, 0.565, 0.7), row(0, 0, 0))), **EXACT)
    assert found.returns_B_T[1].tolist() == [0.0, 0.0, 0.0]
    whitened = advantages.whitened(found.advantages_B_T[mask])
    torch.testing.assert_close(whitened, row(-1.21414341, -0.02093351, 1.23507691)[0], **EIGHT_DIGITS)


P, Q = (0.5, 0.3, 0.2), (0.4, 0.4, 0.2)


def test_kl_estimators_reference_means_and_deviations() -> None:
    p, log_p, log_q = row(*P)[0], row(*P)[0].log(), row(*Q)[0].log()
    expected = {kl.k1: (0.0252671539, 0.22155), kl.k2: (0.0248624073, 0.01433), kl.k3: (0.0252671539, 0.01596)}
    for estimator, (mean, deviation) in expected.items():
        terms = estimator(log_p, log_q)
        assert (p * terms).sum().item() == pytest.approx(mean, abs=1e-9)
        assert (p * terms.square()).sum().sub(mean**2).sqrt().item() == pytest.approx(deviation, abs=6e-6)


@pytest.mark.parametrize(
    ("estimator", "gradient"),
    [
        (kl.k1, (0.0, 0.0, 0.0)),
        (kl.k2, (0.0989381987, -0.0938847679, -0.0050534308)),
        (kl.k3, (0.1, -0.1, 0.0)),
    ],
)
def test_as_a_loss_k1_does_nothing_and_k3_optimises_the_other_kl(estimator, gradient) -> None:  # type: ignore[no-untyped-def]
    logits = row(*P)[0].log().requires_grad_()
    terms = estimator(torch.log_softmax(logits, dim=0), row(*Q)[0].log())
    (row(*P)[0] * terms).sum().backward()  # the sampling distribution is not differentiated
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, row(*gradient)[0], **EXACT)


def test_every_estimator_is_zero_where_policy_and_reference_agree() -> None:
    logprobs = row(-0.1, -2.0, -30.0)[0]
    for estimator in (kl.k1, kl.k2, kl.k3):
        assert estimator(logprobs, logprobs).tolist() == [0.0, 0.0, 0.0]


def test_a_log_ratio_of_19_does_not_overflow() -> None:
    far, near = torch.tensor([0.0, -19.0, -1e6]), torch.tensor([-19.0, 0.0, 0.0])
    for estimator in (kl.k1, kl.k2, kl.k3):
        for terms in (estimator(far, near), estimator(near, far)):
            assert torch.isfinite(terms).all() and terms.abs().max() <= 10.0


@pytest.mark.parametrize("ratio", [-1000.0, 19.0, 1000.0])
def test_the_gradient_of_every_estimator_is_finite_at_any_log_ratio(ratio: float) -> None:
    for estimator in kl.ESTIMATORS.values():
        logprobs = torch.tensor([0.0], requires_grad=True)
        estimator(logprobs, logprobs.detach() - ratio).sum().backward()
        assert logprobs.grad is not None and torch.isfinite(logprobs.grad).all()


@pytest.mark.parametrize(("observed", "coefficient"), [(9.0, 0.201024), (5.7, 0.199744)])
def test_adaptive_kl_reference_cases(observed: float, coefficient: float) -> None:
    adapted = kl.adapted_coefficient(0.2, observed, target=6.0, horizon=10_000, samples=256)
    assert adapted == pytest.approx(coefficient, abs=1e-12)


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


FOUR = f64(1.0, 0.0, 0.5, 0.5)
ONE_GROUP = torch.zeros(4, dtype=torch.long)


def test_leave_one_out_reference_case_is_the_reward_less_the_mean_of_the_others() -> None:
    found = advantages.leave_one_out(FOUR, ONE_GROUP)
    torch.testing.assert_close(found, f64(2 / 3, -2 / 3, 0.0, 0.0), **EXACT)
    others = [FOUR[torch.arange(4) != i].mean() for i in range(4)]
    torch.testing.assert_close(found, FOUR - torch.stack(others), **EXACT)


def test_group_normalised_reference_case_uses_bessel_s_deviation_and_a_ten_thousandth() -> None:
    found = advantages.group_normalised(FOUR, ONE_GROUP)
    torch.testing.assert_close(found, f64(1.224445, -1.224445, 0.0, 0.0), rtol=0, atol=5.1e-7)
    torch.testing.assert_close(found[0], torch.tensor(0.5 / (math.sqrt(1 / 6) + 1e-4), dtype=torch.float64), **EXACT)
    # what the population's deviation would give
    assert found[0].item() != pytest.approx(1.413814, abs=0.1)


def test_without_the_deviation_group_advantages_are_those_of_dr_grpo() -> None:
    found = advantages.group_normalised(FOUR, ONE_GROUP, scale=False)
    torch.testing.assert_close(found, f64(0.5, -0.5, 0.0, 0.0), **EXACT)


BASELINES = {
    "rloo": advantages.leave_one_out,
    "grpo": advantages.group_normalised,
    "dr. grpo": lambda rewards, groups: advantages.group_normalised(rewards, groups, scale=False),
}


@pytest.mark.parametrize("name", BASELINES)
def test_groups_do_not_see_each_other_and_each_sums_to_zero_in_any_order(name: str) -> None:
    baseline = BASELINES[name]
    rewards, groups = f64(1.0, 9.0, 0.0, 7.0, 0.5, 0.5, 8.5), torch.tensor([0, 1, 0, 1, 0, 0, 1])
    found = baseline(rewards, groups)
    torch.testing.assert_close(found[groups == 0], baseline(FOUR, ONE_GROUP), **EXACT)
    for group in (0, 1):
        assert found[groups == group].sum().item() == pytest.approx(0.0, abs=1e-12)
    order = torch.tensor([6, 2, 0, 5, 1, 4, 3])
    torch.testing.assert_close(baseline(rewards[order], groups[order]), found[order], **EXACT)


@pytest.mark.parametrize("name", BASELINES)
def test_equal_rewards_and_an_answer_alone_have_no_advantage_and_no_nan(name: str) -> None:
    found = BASELINES[name](f64(0.1, 0.1, 0.1, 5.0), torch.tensor([0, 0, 0, 2]))
    assert found.abs().max() < 1e-11 and found[3] == 0.0


def test_a_critic_that_knows_all_explains_all_and_one_that_knows_the_mean_nothing() -> None:
    returns = f64(1.0, 2.0, 6.0)
    assert advantages.explained_variance(returns, returns) == 1.0
    assert advantages.explained_variance(torch.full_like(returns, 3.0), returns) == pytest.approx(0.0, abs=1e-12)
    assert advantages.explained_variance(f64(6.0, 2.0, 1.0), returns) < 0
    assert advantages.explained_variance(returns, torch.ones_like(returns)) == 0.0
