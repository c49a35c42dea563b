"""Two reward models from one data set: each learns from its own split only, and each is judged honestly."""

import dataclasses
import math

import pytest
import torch
from tests.integration.training import making

from trimtab.core import errors, models, scoring, text
from trimtab.modeling import loading
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.reward import fitting, hub, material
from trimtab.trainer.steps import progress

torch.set_num_threads(1)
QUICK = recipes.RewardSettings(epochs=4, batch=8, lr=3e-3, warmup_steps=2)


def train(
    policy: loading.LoadedPolicy,
    report: progress.Progress,
    dataset: datasets.Dataset,
    settings: recipes.RewardSettings = QUICK,
) -> tuple[list[fitting.TrainedReward], dict[str, float]]:
    return fitting.train_both(policy, dataset, settings, 3, report)


def weights(made: fitting.TrainedReward) -> list[torch.Tensor]:
    return list(made.reward.model.state_dict().values())


def equal(one: fitting.TrainedReward, other: fitting.TrainedReward) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_both_learn_the_raters_taste_and_pass_their_gates(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    made, skipped = train(policy, report, making.feedback(90, 90))
    assert [one.kind for one in made] == [models.ModelKind.REWARD, models.ModelKind.EVALUATION_REWARD]
    assert skipped == {}
    for one in made:
        assert one.figures["pair_nll"] < 0.6 and one.figures["pair_accuracy"] > 0.8
        assert one.figures["thumb_nll"] < 0.6 and one.figures["thumb_accuracy"] > 0.8
        assert {gate.name for gate in one.gates if gate.name.endswith("constant") and gate.passed} == {
            "pair_nll_below_constant",
            "thumb_nll_below_constant",
        }
        question = tuple(encoding.messages_of(making.prompt("red")))
        kind, rude = (
            scoring.ScoreItem(question, text.Text(answer.format("red"))) for answer in (making.KIND, making.RUDE)
        )
        liked, disliked = (score.outcome for score in one.reward.score([kind, rude]))
        assert isinstance(liked, float) and isinstance(disliked, float) and liked > disliked
    assert made[0].reward.hub.surfaces.keys() == {"app"}


def test_the_deciding_model_never_sees_what_is_held_out_and_the_judge_nothing_else(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    settings = dataclasses.replace(QUICK, epochs=1)
    dataset = making.feedback()
    first, _ = train(policy, report, dataset, settings)
    swapped = {
        split: datasets.Dataset(
            [
                dataclasses.replace(one, chosen=one.rejected, rejected=one.chosen) if one.split == split else one
                for one in dataset.examples
            ]
        )
        for split in ("train", "held_out")
    }
    other_judge, _ = train(policy, report, swapped["held_out"], settings)
    other_decider, _ = train(policy, report, swapped["train"], settings)
    assert equal(first[0], other_judge[0]) and not equal(first[1], other_judge[1])
    assert equal(first[1], other_decider[1]) and not equal(first[0], other_decider[0])


def test_before_the_first_step_every_example_costs_ln_2(policy: loading.LoadedPolicy) -> None:
    encoder = encoding.encoder_of(policy)
    feedback = material.prepare(encoder, making.feedback().of("train"), QUICK, encoding.Skipped())
    model = fitting.rewards.from_policy(policy).model
    terms = hub.RewardTerms(feedback, QUICK)
    loss = terms.loss(terms.of(model, feedback.answers()), feedback.items)
    assert loss.item() / len(feedback) == pytest.approx(math.log(2), abs=1e-6)
    assert terms.prior_penalty().item() == 0.0


def test_pairs_and_thumbs_alone_fix_what_the_other_would(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    only_pairs, _ = train(policy, report, making.feedback(60, 0))
    only_thumbs, _ = train(policy, report, making.feedback(0, 60))
    assert all(gate.name.startswith("pair") for gate in only_pairs[0].gates)
    assert all(gate.name.startswith("thumb") for gate in only_thumbs[0].gates)
    assert only_thumbs[0].reward.hub.slope == 1.0


def test_embeddings_that_do_not_train_stay_those_of_the_parent(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    before = policy.model.get_input_embeddings().weight.clone()
    made, _ = train(policy, report, making.feedback(), dataclasses.replace(QUICK, train_embeddings=False))
    for one in made:
        assert torch.equal(one.reward.model.get_input_embeddings().weight, before)
        assert not torch.equal(one.reward.model.score.weight, torch.zeros_like(one.reward.model.score.weight))


def test_the_surprise_is_learned_and_its_reference_is_kept(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    made, _ = train(policy, report, making.feedback(), dataclasses.replace(QUICK, surprise=True))
    assert all(one.reward.hub.surprise and one.reward.hub.surprise.weight != 0 for one in made)
    assert all(one.reward.reference is policy.model for one in made)


def test_a_kind_that_cannot_be_judged_is_left_out_and_counted(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    made, skipped = train(policy, report, making.feedback(60, 12))
    assert made[0].figures["trained_thumbs"] == 0
    assert skipped["skipped: thumbs in a split of fewer than 16"] == 12


def test_thumbs_that_are_all_alike_teach_nothing_and_are_counted(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    dataset = making.feedback()
    happy = datasets.Dataset([dataclasses.replace(one, up=True) for one in dataset.examples])
    made, skipped = train(policy, report, happy)
    assert [gate.name[:4] for gate in made[0].gates] == ["pair", "pair"]
    assert skipped["skipped: thumbs all alike in a split"] == 60
    only_happy = datasets.Dataset([one for one in happy.examples if one.kind == "thumb"])
    with pytest.raises(errors.InvalidField, match="not all of them alike"):
        train(policy, report, only_happy)


@pytest.mark.parametrize("count", [0, 6])
def test_too_little_feedback_is_refused_with_its_counts(
    policy: loading.LoadedPolicy, report: progress.Progress, count: int
) -> None:
    with pytest.raises(errors.InvalidField, match="needs 16 in each"):
        train(policy, report, making.feedback(count, count))


def test_what_cannot_be_trained_on_is_left_out_and_counted_by_its_reason(policy: loading.LoadedPolicy) -> None:
    skipped = encoding.Skipped()
    pair = making.feedback(1, 0).examples[0]
    rows = [
        pair,
        dataclasses.replace(pair, id="again"),
        dataclasses.replace(pair, id="somebody else", rater="x"),
        dataclasses.replace(pair, id="same", rejected=pair.chosen),
        dataclasses.replace(pair, id="long", chosen="red " * 200),
        dataclasses.replace(pair, id="weightless", weight=math.nan),
        dataclasses.replace(pair, id="strong", strength=math.nan),
    ]
    feedback = material.prepare(encoding.encoder_of(policy), rows, QUICK, skipped)
    assert len(feedback) == 2
    assert skipped.figures() == {
        "skipped: duplicate": 1,
        "skipped: identical answers": 1,
        "skipped: strength outside 0 to 1": 1,
        "skipped: too long": 1,
        "skipped: weight that is no positive number": 1,
    }


def test_strength_becomes_a_margin_in_proportion(policy: loading.LoadedPolicy) -> None:
    pair = making.feedback(1, 0).examples[0]
    rows = [dataclasses.replace(pair, id=f"{s}", rater=f"{s}", strength=s) for s in (None, 0.25, 1.0)]
    settings = dataclasses.replace(QUICK, strength_margin=2.0)
    feedback = material.prepare(encoding.encoder_of(policy), rows, settings, encoding.Skipped())
    assert [one.margin for one in feedback.items] == [0.0, 0.5, 2.0]


def test_an_answer_without_a_finite_reward_costs_its_step_and_spoils_no_weight(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    """One answer holds a token whose embedding is no number; its step is skipped and counted, each time."""
    rows = making.feedback(60, 0).examples
    rows[0] = dataclasses.replace(rows[0], chosen="Gladly: it is \u2603.")
    spoilt = policy.tokenizer.encode("\u2603", add_special_tokens=False)[-1]
    with torch.no_grad():
        policy.model.get_input_embeddings().weight[spoilt] = math.nan
    settings = dataclasses.replace(QUICK, epochs=2, train_embeddings=False)
    made, _ = train(policy, report, datasets.Dataset(rows), settings)
    assert [one.figures["steps_skipped"] for one in made] == [2.0, 0.0]
    body = [weight for name, weight in made[0].reward.model.named_parameters() if "embed" not in name]
    assert all(weight.isfinite().all() for weight in body)
    assert not torch.equal(made[0].reward.model.score.weight, torch.zeros_like(made[0].reward.model.score.weight))
    # the judge cannot judge that pair: no gate is passed on a number that is none
    assert not made[1].gates[0].passed and "pair_nll" not in made[1].figures


@pytest.mark.parametrize("batch", [1, 2])
def test_batches_of_one_class_train_to_finite_weights(
    policy: loading.LoadedPolicy, report: progress.Progress, batch: int
) -> None:
    made, _ = train(policy, report, making.feedback(0, 60), dataclasses.replace(QUICK, epochs=1, batch=batch))
    assert made[0].figures["thumb_accuracy"] > 0.6
    assert all(weight.isfinite().all() for weight in weights(made[0]))
