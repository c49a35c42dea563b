"""Likelihoods of ties, rankings and stars: numbers of other software and of plain arithmetic, and sums to 1."""

import itertools
import math

import pytest
import torch

from trimtab.trainer.reward import likelihoods

torch.set_num_threads(1)
NO_TIES = torch.zeros(0, dtype=torch.float64)


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def ranking_nll(rewards: list[float], ranks: list[int], *log_deltas: float) -> float:
    """Of one ranking, whatever the order its answers are given in."""
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    rewards_1_K = f64(*(rewards[i] for i in order)).unsqueeze(0)
    ranks_1_K = torch.tensor([[ranks[i] for i in order]])
    return likelihoods.plackett_luce_nll(rewards_1_K, ranks_1_K, f64(*log_deltas)).item()


def test_davidson_is_worth_over_worths_and_the_tie_term() -> None:
    nu, first, second = 0.8, math.exp(1.2), math.exp(0.7)
    total = first + second + nu * math.sqrt(first * second)
    gaps, ties = f64(0.5, -0.5, 0.5), torch.tensor([False, False, True])
    nll = likelihoods.davidson_nll(gaps, ties, f64(math.log(nu)).squeeze())
    assert torch.exp(-nll).tolist() == pytest.approx(
        [first / total, second / total, nu * math.sqrt(first * second) / total], abs=1e-12
    )
    assert torch.exp(-nll).sum().item() == pytest.approx(1.0, abs=1e-12)


def test_davidson_with_vanishing_ties_or_given_a_decision_is_bradley_terry() -> None:
    gaps, decided = f64(0.0, 0.5, 2.0, -1.0, -1000.0), torch.zeros(5, dtype=torch.bool)
    expected = likelihoods.bradley_terry_nll(gaps)
    torch.testing.assert_close(
        likelihoods.davidson_nll(gaps, decided, f64(-60.0).squeeze()), expected, rtol=0, atol=1e-9
    )
    log_nu = f64(0.3).squeeze()
    undecided = likelihoods.davidson_nll(gaps, ~decided, log_nu)
    given = likelihoods.davidson_nll(gaps, decided, log_nu) + torch.log(-torch.expm1(-undecided))
    torch.testing.assert_close(given[:4], expected[:4], rtol=0, atol=1e-9)


def test_margins_and_soft_labels_of_davidson_are_those_of_bradley_terry_and_leave_ties_alone() -> None:
    gaps, decided, rare = f64(1.2, 1.2), torch.zeros(2, dtype=torch.bool), f64(-60.0).squeeze()
    margins = likelihoods.davidson_nll(gaps, decided, rare, f64(1.0, 3.0))
    torch.testing.assert_close(margins, f64(0.5981388694, 1.9529776105), rtol=0, atol=1e-9)
    soft = likelihoods.davidson_nll(f64(0.5), decided[:1], rare, agreement=0.7)
    torch.testing.assert_close(soft, f64(0.6240769842), rtol=0, atol=1e-9)
    nu = f64(0.0).squeeze()
    tied = [likelihoods.davidson_nll(f64(1.2), torch.tensor([True]), nu, margin) for margin in (None, f64(3.0))]
    assert torch.equal(*tied)


def test_plackett_luce_reference_case_and_all_orders_sum_to_one() -> None:
    nll = ranking_nll([2.0, 1.0, 0.0], [1, 2, 3])
    assert nll == pytest.approx(0.7208676520, abs=1e-9) and math.exp(-nll) == pytest.approx(0.4863301076, abs=1e-9)
    # the mean over all pairs, which counts a ranking of K answers K (K - 1) / 2 times, is another number
    pairs = likelihoods.bradley_terry_nll(torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)).mean().item()
    assert pairs == pytest.approx(0.2511504620, abs=1e-9)
    orders = itertools.permutations(range(1, 4))
    assert sum(math.exp(-ranking_nll([2.0, 1.0, 0.0], list(ranks))) for ranks in orders) == pytest.approx(1.0)


@pytest.mark.parametrize("log_deltas", [(-0.3,), (0.5, -1.0), (-0.3, 0.5, -1.0)])
def test_all_rankings_with_ties_up_to_the_largest_sum_to_one(log_deltas: tuple[float, ...]) -> None:
    rewards = [0.9, -0.4, 0.1, 1.7]
    total = 0.0
    for ranks in itertools.product(range(1, 5), repeat=4):
        dense = sorted(set(ranks)) == list(range(1, max(ranks) + 1))
        if dense and max(ranks.count(rank) for rank in ranks) <= 1 + len(log_deltas):
            total += math.exp(-ranking_nll(rewards, list(ranks), *log_deltas))
    assert total == pytest.approx(1.0, abs=1e-12)


def test_rankings_with_ties_and_gaps_as_the_r_package_plackettluce_has_them() -> None:
    """Six rankings of its test "S3-methods" with the log worths, log delta and choice probabilities it prints for them.

    Rank 0 is an answer that was not ranked. Its deviance is 21.61.
    """
    worths, log_delta = [0.0, 0.2867987, -0.4636687], -1.0701129
    fitted: list[tuple[list[int], list[float]]] = [
        ([1, 2, 0], [0.36656777]),
        ([3, 1, 2], [0.33785994, 0.33086831]),
        ([2, 1, 1], [0.07962156]),
        ([1, 2, 3], [0.2536189, 0.58554515]),
        ([2, 1, 1], [0.07962156]),
        ([1, 0, 2], [0.52604625]),
    ]
    ranked = [[(rank, worth) for rank, worth in zip(ranks, worths, strict=True) if rank] for ranks, _ in fitted]
    found = [ranking_nll([worth for _, worth in one], [rank for rank, _ in one], log_delta) for one in ranked]
    assert found == pytest.approx([-math.log(math.prod(chances)) for _, chances in fitted], abs=1e-6)
    assert 2 * sum(found) == pytest.approx(21.61, abs=0.005)


def test_a_ranking_of_two_is_a_comparison_with_its_ties() -> None:
    log_nu = 0.4
    gaps, ties = f64(0.7, 0.7), torch.tensor([False, True])
    expected = likelihoods.davidson_nll(gaps, ties, f64(log_nu).squeeze()).tolist()
    assert [ranking_nll([0.7, 0.0], ranks, log_nu) for ranks in ([1, 2], [1, 1])] == pytest.approx(expected)
    assert ranking_nll([0.7, 0.0], [2, 5]) == pytest.approx(likelihoods.bradley_terry_nll(f64(0.7)).item())


def test_padding_ranks_0_and_changes_nothing_not_even_a_gradient() -> None:
    rewards = f64(1.0, 0.2, -0.5, 1e6).unsqueeze(0).requires_grad_()
    padded = likelihoods.plackett_luce_nll(rewards, torch.tensor([[1, 1, 3, 0]]), f64(-0.2))
    padded.sum().backward()
    assert padded.item() == pytest.approx(ranking_nll([1.0, 0.2, -0.5], [1, 1, 3], -0.2), abs=1e-12)
    assert rewards.grad is not None and rewards.grad[0, 3].item() == 0.0
    assert torch.isfinite(rewards.grad).all() and rewards.grad.abs().sum() > 0


def test_a_tie_larger_than_any_delta_has_probability_nothing() -> None:
    assert ranking_nll([0.0, 0.0, 0.0], [1, 1, 1], -0.2) == math.inf


def test_rankings_stay_finite_in_fp32_far_out() -> None:
    rewards = torch.tensor([[-300.0, 0.0, 300.0]], requires_grad=True)
    nll = likelihoods.plackett_luce_nll(rewards, torch.tensor([[1, 2, 2]]), torch.zeros(1))
    nll.sum().backward()
    assert torch.isfinite(nll).all() and nll.item() > 500
    assert rewards.grad is not None and torch.isfinite(rewards.grad).all()


def test_stars_are_differences_of_cumulative_chances() -> None:
    nll = likelihoods.ordered_logit_nll(
        f64(0.5, 0.5, 0.5, 0.5), torch.tensor([1, 2, 3, 4]), f64(2.0), f64(-1.0, 0.3, 2.0)
    )
    expected = [0.1192029220, 0.2126093058, 0.3992463508, 0.2689414214]
    assert torch.exp(-nll).tolist() == pytest.approx(expected, abs=1e-9)


def test_two_stars_are_a_thumb() -> None:
    rewards = f64(-1.3, 0.0, 2.1)
    for stars, up in ((1, 0.0), (2, 1.0)):
        found = likelihoods.ordered_logit_nll(rewards, torch.full((3,), stars), f64(0.7), f64(-0.4))
        expected = likelihoods.thumb_nll(rewards, torch.full((3,), up), f64(0.7), f64(0.4))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_stars_far_out_are_linear_with_finite_gradients() -> None:
    rewards = torch.tensor([-1e4, 1e4], requires_grad=True)
    cuts = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
    nll = likelihoods.ordered_logit_nll(rewards, torch.tensor([4, 2]), torch.tensor(1.0), cuts)
    nll.sum().backward()
    assert nll.tolist() == pytest.approx([10_001.0, 10_000.459], abs=0.01)
    assert rewards.grad is not None and rewards.grad.tolist() == [-1.0, 1.0]
    assert cuts.grad is not None and torch.isfinite(cuts.grad).all()
