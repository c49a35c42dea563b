"""The terms around a reward: where they start, what they weigh, and what counts as right."""

import math

import pytest
import torch

from trimtab.trainer.reward import cutpoints, labels, terms

torch.set_num_threads(1)


def test_cutpoints_start_at_the_shares_of_the_stars_and_keep_their_order() -> None:
    stars = [5] * 60 + [4] * 20 + [1] * 20
    begun = cutpoints.start(stars, 5)
    shares = torch.cat((begun, torch.tensor([math.inf]))).sigmoid().diff(prepend=torch.zeros(1))
    assert shares.tolist() == pytest.approx([(n + 0.5) / 102.5 for n in (20, 0, 0, 20, 60)])
    torch.testing.assert_close(cutpoints.moved(begun, torch.zeros(()), torch.zeros(3)), begun)
    wild = cutpoints.moved(begun, torch.tensor(-3.0), torch.tensor([-5.0, 4.0, 0.0]))
    assert (wild.diff() > 0).all() and wild[0] == begun[0] - 3


def test_a_scale_of_two_has_one_cutpoint_and_nothing_to_keep_in_order() -> None:
    said = [labels.Rating("x", stars, 2) for stars in (1, 2, 2)]
    model = terms.RatingTerms(said)
    nll = model.nll(torch.zeros(3), said)
    assert nll.tolist() == pytest.approx([-math.log(1.5 / 4), -math.log(2.5 / 4), -math.log(2.5 / 4)], abs=1e-6)
    assert model.penalty().item() == 0.0


def test_each_scale_has_terms_of_its_own() -> None:
    said = [labels.Rating("x", 2, 2), labels.Rating("x", 7, 10), labels.Rating("x", 1, 2), labels.Rating("x", 3, 10)]
    model = terms.RatingTerms(said, free_slopes=True, fixed=10)
    assert {scale: one.log_slope.requires_grad for scale, one in model.scales.items()} == {2: True, 10: False}
    before = model.nll(torch.zeros(4), said)
    with torch.no_grad():
        model.scales[2].shift.add_(1.0)
    changed = model.nll(torch.zeros(4), said) != before
    assert changed.tolist() == [True, False, True, False]


def test_ties_start_as_frequent_as_they_are_and_are_absent_where_nobody_ties() -> None:
    decided, tied = labels.Pair("a", "b"), labels.Pair("a", "b", tie=True)
    said = [decided] * 30 + [tied] * 10
    model = terms.PairTerms(said)
    assert torch.exp(-model.nll(torch.zeros(80), said)).tolist() == pytest.approx([0.375] * 30 + [0.25] * 10)
    assert model.penalty().item() == 0.0
    assert terms.PairTerms([decided]).log_nu is None


def test_ties_of_rankings_start_where_they_fit_equals() -> None:
    tie, order = labels.Ranking(("a", "b"), (1, 1)), labels.Ranking(("a", "b"), (1, 2))
    said = [tie] * 200 + [order] * 600
    model = terms.RankingTerms(said)
    chances = torch.exp(-model.nll(torch.zeros(1600), said))
    assert chances[0].item() == pytest.approx(0.25, abs=0.01)
    assert terms.RankingTerms([order]).log_deltas.numel() == 0


def test_thumbs_of_unknown_surfaces_and_raters_are_those_of_all_others() -> None:
    model = terms.ThumbTerms(["chat"], ["ann"], surface_deviation=0.5, rater_deviation=2.0)
    with torch.no_grad():
        model.intercept.fill_(0.1)
        model.surfaces.fill_(0.3)
        model.raters.fill_(-1.0)
    said = [labels.Thumb("x", True, *of) for of in (("chat", "ann"), ("chat", "bob"), ("mail", "ann"), ("mail", ""))]
    assert model.intercepts(said).tolist() == pytest.approx([-0.6, 0.4, -0.9, 0.1])
    assert model.penalty().item() == pytest.approx(0.3**2 / (2 * 0.5**2) + 1.0 / (2 * 2.0**2))


def test_what_is_right_counts_half_where_the_rewards_tie() -> None:
    pairs = [labels.Pair("a", "b")] * 3 + [labels.Pair("a", "b", tie=True)]
    found = terms.PairTerms(pairs).right(torch.tensor([1.0, 0.0, 0.0, 1.0, 2.0, 2.0, 9.0, 0.0]), pairs)
    assert found is not None and found.tolist() == [1.0, 0.0, 0.5]
    rankings = [labels.Ranking(("a", "b", "c"), (1, 2, 2)), labels.Ranking(("a", "b"), (1, 1))]
    found = terms.RankingTerms(rankings).right(torch.tensor([1.0, 0.0, 1.0, 5.0, 6.0]), rankings)
    assert found is not None and found.tolist() == [0.75]
    thumbs = [labels.Thumb("a", True), labels.Thumb("a", False)]
    found = terms.ThumbTerms().right(torch.tensor([-1.0, -1.0]), thumbs)
    assert found is not None and found.tolist() == [0.0, 1.0]
    assert terms.RatingTerms([]).right(torch.zeros(1), [labels.Rating("a", 3, 5)]) is None


def test_rankings_of_different_lengths_are_read_from_one_row_of_rewards() -> None:
    said = [labels.Ranking(("a", "b"), (1, 2)), labels.Ranking(("a", "b", "c"), (1, 2, 3))]
    rewards = torch.tensor([0.5, 0.1, 2.0, 1.0, 0.0])
    model = terms.RankingTerms(said)
    alone = [model.nll(part, [label]).item() for part, label in zip(rewards.split([2, 3]), said, strict=True)]
    assert model.nll(rewards, said).tolist() == pytest.approx(alone)
    assert alone[1] == pytest.approx(0.7208676520, abs=1e-6)
