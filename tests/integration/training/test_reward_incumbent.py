"""A new reward model must not be worse than the incumbent on what was there in the incumbent's time."""

import dataclasses
import pathlib

import pytest
import torch
from tests.integration.training import making

from trimtab.core import models
from trimtab.modeling import loading, rewards
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.reward import fitting, incumbents, labels, material, scores
from trimtab.trainer.steps import progress

torch.set_num_threads(1)
QUICK = recipes.RewardSettings(epochs=4, batch=8, lr=3e-3, warmup_steps=2)


def turned(dataset: datasets.Dataset) -> datasets.Dataset:
    """The same people with the opposite taste."""
    rows = [
        dataclasses.replace(one, chosen=one.rejected, rejected=one.chosen, up=not one.up) for one in dataset.examples
    ]
    return datasets.Dataset(rows)


def at(dataset: datasets.Dataset, seconds: float, prefix: str = "") -> list[datasets.DatasetExample]:
    return [
        dataclasses.replace(one, id=prefix + one.id, occurred_at=seconds + number, rater=prefix + one.rater)
        for number, one in enumerate(dataset.examples)
    ]


def train(
    policy: loading.LoadedPolicy,
    report: progress.Progress,
    dataset: datasets.Dataset,
    incumbent: rewards.LoadedReward | None = None,
    **changes: float,
) -> fitting.TrainedReward:
    settings = dataclasses.replace(QUICK, **changes)  # type: ignore[arg-type]
    made, _ = fitting.train_both(policy, dataset, settings, 3, report, incumbent=incumbent)
    assert made[1].kind is models.ModelKind.EVALUATION_REWARD
    assert not any("incumbent" in name for name in made[1].figures)
    return made[0]


def gate_of(made: fitting.TrainedReward) -> models.GateFigure:
    (found,) = [gate for gate in made.gates if gate.name == "nll_above_incumbent"]
    return found


def test_one_that_forgot_is_refused_and_one_that_learned_more_passes(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    old = at(making.feedback(90, 60), 1000.0)
    incumbent = train(policy, report, datasets.Dataset(old))
    assert "incumbent_compared" not in incumbent.figures
    assert incumbent.reward.hub.seen_until == max(one.occurred_at for one in old if one.split == "train")
    new = at(turned(making.feedback(60, 0)), 5000.0, "n")
    forgetful = [one for one in new if one.split == "train"] + [one for one in old if one.split == "held_out"]
    forgot = train(policy, report, datasets.Dataset([*forgetful, *[o for o in new if o.split == "held_out"]]))
    compared = incumbents.compare(forgot.reward, incumbent.reward, [*old, *new], QUICK)
    assert not compared.gates[0].passed and compared.gates[0].value > compared.gates[0].threshold > 0
    assert compared.figures["incumbent_nll_difference_old_low"] > 0
    assert compared.figures["incumbent_nll_difference_new_high"] < 0
    again = train(policy, report, datasets.Dataset(old), incumbent.reward)
    assert gate_of(again).passed and gate_of(again).value == pytest.approx(0.0, abs=1e-9)
    replayed = train(
        policy, report, datasets.Dataset([*old, *at(making.feedback(90, 60), 3000.0, "m")]), incumbent.reward
    )
    assert gate_of(replayed).passed
    assert replayed.figures["incumbent_compared"] == sum(
        one.split == "held_out" and one.occurred_at <= incumbent.reward.hub.seen_until for one in old
    )


def test_a_published_model_of_pairs_is_compared_on_pairs_alone_and_too_few_make_no_gate(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    published = dataclasses.replace(rewards.from_policy(policy), hub=rewards.Hub())
    dataset = making.feedback(60, 60)
    made = train(policy, report, dataset, published)
    assert made.figures["incumbent_compared"] == sum(
        one.kind == "pair" and one.split == "held_out" for one in dataset.examples
    )
    assert gate_of(made).passed and gate_of(made).value < -0.05
    few = incumbents.compare(made.reward, published, dataset.of("held_out")[:10], QUICK)
    assert few.gates == () and few.figures["incumbent_compared"] == 10


def test_an_incumbent_of_surprise_and_of_several_heads_is_asked_for_its_mean(
    policy: loading.LoadedPolicy, report: progress.Progress, tmp_path: pathlib.Path
) -> None:
    dataset = making.feedback(60, 0)
    made = train(policy, report, dataset, epochs=1, surprise=True, heads=4, pessimism=3.0)
    rewards.save_reward_model(made.reward, tmp_path)
    loaded = rewards.load_reward_model(tmp_path)
    assert loaded.reference is not None and loaded.ensemble is not None and loaded.hub.surprise is not None
    again = train(policy, report, dataset, loaded, epochs=1, surprise=True, heads=4)
    assert gate_of(again).passed and gate_of(again).value == pytest.approx(0.0, abs=1e-5)


def test_saved_terms_give_the_nats_of_the_terms_they_were_saved_from(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    """Of every kind, ties included, where no rater has a temper of his own."""
    dataset = making.every_kind(60)
    settings = dataclasses.replace(QUICK, epochs=1)
    feedback = material.prepare(encoding.encoder_of(policy), dataset.of("train"), settings, encoding.Skipped())
    reward, terms = fitting.fit(policy, feedback, settings, seed=1, report=report)
    assert reward.hub.kinds == list(labels.KINDS)
    for kind in labels.KINDS:
        items = feedback.of(kind)
        rewards_B = scores.rewards_of(reward.model, terms, items)
        with torch.no_grad():
            expected = terms.of_kind(kind).nll(rewards_B, [item.label for item in items]).tolist()
        parts = torch.split(rewards_B, [len(item.answers) for item in items])
        found = [incumbents.nll(reward.hub, item.label, part) for item, part in zip(items, parts, strict=True)]
        assert found == pytest.approx(expected, abs=1e-5)
    zero = torch.zeros(3, dtype=torch.float64)
    assert incumbents.nll(reward.hub, labels.Ranking(("a", "b", "c"), (1, 1, 1)), zero) is None
    assert incumbents.nll(reward.hub, labels.Rating("a", 5, 5), zero[:1]) is None
    assert incumbents.nll(rewards.Hub(), labels.Pair("a", "b", tie=True), zero[:2]) is None
    assert incumbents.nll(rewards.Hub(), labels.Thumb("a", True), zero[:1]) is None


def test_the_latest_feedback_is_kept_from_training_and_measures_calibration(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    dataset = datasets.Dataset(at(making.feedback(120, 90), 1000.0))
    made = train(policy, report, dataset, recent_share=0.25)
    trained = len(dataset.of("train"))
    late = made.figures.get("recent_pairs", 0) + made.figures.get("recent_thumbs", 0)
    assert late == round(0.25 * trained)
    assert made.figures["trained_pairs"] + made.figures["trained_thumbs"] == trained - late
    assert made.reward.hub.seen_until < max(one.occurred_at for one in dataset.of("train"))
    for figure in ("nll", "brier", "calibration_error", "accuracy"):
        assert 0 <= made.figures[f"recent_thumb_{figure}"] <= 1
    counted = sum(value for name, value in made.figures.items() if "recent_thumb_margin" in name and "count" in name)
    assert counted == made.figures["recent_thumbs"]
