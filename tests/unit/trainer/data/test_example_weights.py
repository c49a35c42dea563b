"""What an example weighs: reliability of raters from what they share, exposure from its propensity."""

import dataclasses
import math
import random

import pytest

from trimtab.core import lines
from trimtab.trainer.data import datasets, weights

CONFIG = lines.WeightConfig(reliability_overlap=20)


def thumb(item: int, rater: str, up: bool) -> datasets.DatasetExample:
    prompt = [{"role": "user", "content": f"question {item}"}]
    return datasets.DatasetExample(
        f"{item}/{rater}", "train", "thumb", prompt, response=f"answer {item}", up=up, rater=rater
    )


def crowd(accuracies: dict[str, float], items: int = 200, seed: int = 1) -> list[datasets.DatasetExample]:
    """Everybody votes on every item; true answers are good in half of the cases."""
    rng = random.Random(seed)
    truths = [rng.random() < 0.5 for _ in range(items)]
    return [
        thumb(item, rater, truth if rng.random() < right else not truth)
        for item, truth in enumerate(truths)
        for rater, right in accuracies.items()
    ]


def test_the_posterior_of_the_reference_case() -> None:
    """REFERENCE_CASES: accuracies .9, .8, .6, votes 1, 1, 0, even prior: .96, where the majority is 2/3 sure."""
    raters = [weights.Rater(right, right) for right in (0.9, 0.8, 0.6)]
    assert weights.posterior(list(zip(raters, (True, True, False), strict=True))) == pytest.approx(0.96, abs=1e-9)


def test_propensities_give_back_what_everybody_would_have_said() -> None:
    """REFERENCE_CASES: half are satisfied and rate with .3, the others with .6: naive 1/3, weighted 1/2."""
    satisfied, unsatisfied = [1.0] * 30, [0.0] * 60
    said, chances = satisfied + unsatisfied, [0.3] * 30 + [0.6] * 60
    assert math.fsum(said) / len(said) == pytest.approx(1 / 3, abs=1e-9)
    assert weights.inverse_propensity_mean(said, chances) == pytest.approx(0.5, abs=1e-9)
    assert weights.inverse_propensity_mean(said, chances, cap=1.0) == pytest.approx(1 / 3, abs=1e-9)


@pytest.mark.parametrize("propensity", [0.0, -0.1, 1.1, math.nan])
def test_what_is_no_probability_is_no_propensity(propensity: float) -> None:
    with pytest.raises(ValueError, match="cannot have been drawn"):
        weights.inverse_propensity(propensity, 10)


def test_reliabilities_are_recovered_from_overlap_alone() -> None:
    right = {"ann": 0.95, "bob": 0.85, "cat": 0.7, "dan": 0.5}
    found = weights.reliabilities(crowd(right, 600), CONFIG)
    assert {name: one.reliability for name, one in found.items()} == pytest.approx(
        {name: 2 * p - 1 for name, p in right.items()}, abs=0.1
    )


def test_expectation_maximisation_never_makes_the_votes_less_likely() -> None:
    votes = [weights.Vote(row.response, row.rater, row.up) for row in crowd({"a": 0.9, "b": 0.7, "c": 0.6}, 60)]
    fitted = weights.dawid_skene(votes)

    def explained(raters: dict[str, weights.Rater], prior: float) -> float:
        """Log-likelihood of the votes and log prior of the raters."""
        total = sum(
            4 * math.log(p) + math.log(1 - p) for one in raters.values() for p in (one.sensitivity, one.specificity)
        )
        for item in fitted.truths:
            said = [(raters[vote.rater], vote.says) for vote in votes if vote.item == item]
            one = prior * math.prod(r.sensitivity if says else 1 - r.sensitivity for r, says in said)
            nought = (1 - prior) * math.prod(1 - r.specificity if says else r.specificity for r, says in said)
            total += math.log(one + nought)
        return total + math.log(prior) + math.log(1 - prior)

    best = explained(fitted.raters, fitted.prior)
    for name, one in fitted.raters.items():
        for step in (-0.01, 0.01):
            moved = {**fitted.raters, name: dataclasses.replace(one, sensitivity=one.sensitivity + step)}
            assert explained(moved, fitted.prior) < best
    assert explained(fitted.raters, fitted.prior + 0.01) < best > explained(fitted.raters, fitted.prior - 0.01)


def test_gold_items_tell_who_errs_where_the_majority_does() -> None:
    rows = crowd({"expert": 1.0, "a": 0.35, "b": 0.35, "c": 0.35}, 200)
    misled = weights.reliabilities(rows, CONFIG)
    told = weights.reliabilities(rows, dataclasses.replace(CONFIG, gold_raters=("expert",)))
    assert misled["a"].reliability > 0 > misled["expert"].reliability
    assert told["expert"].reliability > 0.9 and all(told[name].reliability < -0.2 for name in "abc")


def test_weights_are_in_proportion_to_reliability_and_1_on_average() -> None:
    rows = crowd({"ann": 0.95, "bob": 0.75, "cat": 0.95}, 300)
    weighed = weights.weigh(rows, {}, CONFIG)
    assert math.fsum(weighed.weights.values()) / len(rows) == pytest.approx(1.0)
    assert weighed.weights["0/bob"] / weighed.weights["0/ann"] == pytest.approx(0.5 / 0.9, abs=0.1)
    assert weighed.figures["thumb_raters_judged"] == 3
    assert weighed.figures["thumb_reliability_least"] == pytest.approx(0.5, abs=0.1)
    assert 600 < weighed.figures["thumb_effective_examples"] < 900


def test_who_shares_too_little_counts_as_all_others_together() -> None:
    rows = crowd({"ann": 0.95, "bob": 0.9}, 100)
    passing = [thumb(item, f"r{item}", rows[2 * item].up) for item in range(100)]
    alone = thumb(999, "nobody else was here", True)
    weighed = weights.weigh([*rows, *passing, alone], {}, CONFIG)
    assert len({weighed.weights[row.id] for row in (*passing, alone)}) == 1
    assert weighed.figures["thumb_raters_judged"] == 2


@pytest.mark.parametrize("overlap", [0, 101])
def test_without_enough_overlap_every_example_is_one_vote(overlap: int) -> None:
    weighed = weights.weigh(crowd({"ann": 0.9, "bob": 0.5}, 100), {}, lines.WeightConfig(overlap))
    assert set(weighed.weights.values()) == {1.0} and weighed.figures == {}


def test_pairs_are_the_same_item_in_either_order_and_ties_are_none() -> None:
    def pair(item: int, rater: str, first_wins: bool, tie: bool = False) -> datasets.DatasetExample:
        texts = (f"a {item}", f"b {item}")
        chosen, rejected = texts if first_wins else texts[::-1]
        prompt = [{"role": "user", "content": "q"}]
        return datasets.DatasetExample(
            f"{item}/{rater}", "train", "pair", prompt, chosen=chosen, rejected=rejected, rater=rater, tie=tie
        )

    rng = random.Random(2)
    rows = [
        pair(item, rater, (item % 2 == 0) is (rng.random() < right))
        for item in range(200)
        for rater, right in (("ann", 0.95), ("bob", 0.85), ("cat", 0.85), ("dan", 0.65))
    ]
    found = weights.reliabilities(rows, CONFIG)
    assert found["ann"].reliability > found["bob"].reliability > found["dan"].reliability
    assert weights.reliabilities([pair(item, r, True, tie=True) for item in range(50) for r in "ab"], CONFIG) == {}


def test_exposure_counts_up_to_its_cap_and_kinds_keep_their_balance() -> None:
    rows = [thumb(item, f"r{item}", True) for item in range(4)]
    rows += [dataclasses.replace(row, id=f"s{row.id}", kind="rating", stars=3, scale=5) for row in rows]
    shown = {"0/r0": 0.5, "1/r1": 0.01}
    config = lines.WeightConfig(propensity_cap=4)
    found = weights.weigh(rows, shown, config).weights
    assert [found[f"{i}/r{i}"] for i in range(4)] == pytest.approx([2 / 2, 4 / 2, 1 / 2, 1 / 2])
    assert [found[f"s{i}/r{i}"] for i in range(4)] == [1.0] * 4


def shares(rows: list[datasets.DatasetExample], config: lines.WeightConfig) -> dict[str, float]:
    found = weights.weigh(rows, {}, config).weights
    of = {rater: math.fsum(found[row.id] for row in rows if row.rater == rater) for rater in {r.rater for r in rows}}
    assert math.fsum(of.values()) == pytest.approx(len(rows))
    return {rater: total / len(rows) for rater, total in of.items()}


def test_no_rater_holds_more_than_its_share_of_the_weight_of_a_kind() -> None:
    rows = [thumb(item, "busy", True) for item in range(200)]
    rows += [thumb(item, "busier", True) for item in range(1000, 1300)]
    rows += [thumb(item, f"r{item % 40}", True) for item in range(2000, 2080)]
    found = shares(rows, lines.WeightConfig(rater_share=0.1))
    assert found["busy"] == pytest.approx(0.1) and found["busier"] == pytest.approx(0.1)
    assert {rater: share for rater, share in found.items() if rater[0] == "r"} == pytest.approx(
        {f"r{number}": 0.8 / 40 for number in range(40)}
    )
    unlimited = shares(rows, lines.WeightConfig(rater_share=1.0))
    assert unlimited["busier"] == pytest.approx(300 / 580)
    assert weights.weigh(rows, {}, lines.WeightConfig(rater_share=0.1)).figures["thumb_raters_capped"] == 2


def test_the_share_is_of_what_examples_weigh_and_not_of_their_number() -> None:
    """Everybody has as many examples; one rater's were shown so rarely that they would be four fifths of all weight."""
    rows = [thumb(item, f"r{item % 20}", True) for item in range(400)]
    rare = {row.id: 0.01 for row in rows if row.rater == "r0"}
    config = lines.WeightConfig(propensity_cap=100, rater_share=0.25)
    found = weights.weigh(rows, rare, config)
    assert math.fsum(found.weights[row.id] for row in rows if row.rater == "r0") / 400 == pytest.approx(0.25)
    assert found.figures["thumb_raters_capped"] == 1
    assert found.figures["thumb_effective_examples"] > 200


@pytest.mark.parametrize(("raters", "share"), [(1, 1.0), (2, 1 - 1 / 101), (4, 0.5), (10, 0.2)])
def test_few_raters_keep_twice_an_even_share(raters: int, share: float) -> None:
    rows = [thumb(item, "busy", True) for item in range(100)]
    rows += [thumb(1000 + number, f"r{number}", True) for number in range(raters - 1)]
    assert shares(rows, lines.WeightConfig(rater_share=0.1))["busy"] == pytest.approx(share)


def test_who_is_called_the_truth_is_not_limited_and_counts_towards_the_others() -> None:
    rows = [thumb(item, "expert", True) for item in range(60)] + [thumb(item, "busy", True) for item in range(900, 990)]
    rows += [thumb(2000 + number, f"r{number}", True) for number in range(30)]
    found = shares(rows, lines.WeightConfig(gold_raters=("expert",), rater_share=0.1))
    assert found["busy"] == pytest.approx(0.1)
    assert found["expert"] == pytest.approx(0.6)
