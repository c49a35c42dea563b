"""Each criterion has its model; together they are one artifact that scores by their rule."""

import dataclasses
import pathlib

import pytest
import torch
from tests.integration.training import making
from tests.integration.training.test_reward_scores import item

from trimtab.core import models
from trimtab.modeling import combining, loading, rewards
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets
from trimtab.trainer.reward import criteria, fitting
from trimtab.trainer.steps import progress

torch.set_num_threads(1)
QUICK = recipes.RewardSettings(
    epochs=4, batch=8, lr=3e-3, warmup_steps=2, heads=3, pessimism=0.5, criteria="tone:1", safety="safe"
)
GOOD, BAD = (item(text.format("red")) for text in (making.KIND, making.RUDE))


def opposed() -> datasets.Dataset:
    """For the tone the kind answer is better; the same answer is unsafe."""
    tone = [dataclasses.replace(one, criterion="tone") for one in making.feedback(90, 0).examples]
    safe = [
        dataclasses.replace(one, id="s" + one.id, criterion="safe", up=not one.up)
        for one in making.feedback(0, 90).examples
    ]
    return datasets.Dataset([*tone, *safe])


def test_models_of_two_criteria_are_one_artifact_that_scores_by_the_rule(
    policy: loading.LoadedPolicy, report: progress.Progress, tmp_path: pathlib.Path
) -> None:
    (deciding, judge), skipped = criteria.train(policy, opposed(), QUICK, 3, report)
    assert (deciding.kind, judge.kind) == (models.ModelKind.REWARD, models.ModelKind.EVALUATION_REWARD)
    assert {gate.name for gate in deciding.gates} == {
        f"{name}: {kind}_nll_{line}"
        for name, kind in (("tone", "pair"), ("safe", "thumb"))
        for line in ("below_constant", "above_bag_of_words")
    }
    assert deciding.figures["tone: pair_accuracy"] > 0.8 and deciding.figures["safe: thumb_accuracy"] > 0.8
    assert skipped["tone: skipped: of another criterion"] == 90
    tone, safe = deciding.reward.of_criterion("tone"), deciding.reward.of_criterion("safe")
    assert tone is not None and safe is not None and deciding.reward.of_criterion("other") is None
    rule = deciding.reward.rule
    assert rule is not None and [part.weight for part in rule.parts] == [1.0, 0.0]
    liked, disliked = deciding.reward.score([GOOD, BAD])
    # the kind answer has the better tone and is unsafe, so the rude one scores higher
    assert tone.score([GOOD])[0].outcome > tone.score([BAD])[0].outcome  # type: ignore[operator]
    assert safe.score([GOOD])[0].outcome < 0 < safe.score([BAD])[0].outcome  # type: ignore[operator]
    assert liked.outcome < combining.FLOOR <= disliked.outcome  # type: ignore[operator]
    assert liked.uncertainty is not None and liked.uncertainty > 0
    for one in (deciding, judge):
        rewards.save_reward_model(one.reward, tmp_path / one.kind)
        loaded = rewards.load_reward_model(tmp_path / one.kind)
        assert loaded.rule == one.reward.rule
        assert loaded.score([GOOD, BAD]) == one.reward.score([GOOD, BAD])
    unscored = deciding.reward.score([item("word " * 200)])[0].outcome
    assert str(unscored).startswith("too long")


def test_without_named_criteria_all_feedback_makes_one_model(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    plain = dataclasses.replace(QUICK, epochs=1, heads=1, pessimism=0.0, criteria="", safety="")
    (made, _), _ = criteria.train(policy, opposed(), plain, 3, report)
    (same, _), _ = fitting.train_both(policy, opposed(), plain, 3, report)
    assert made.reward.rule is None and made.figures["trained_pairs"] == 60 and made.figures["trained_thumbs"] == 60
    assert torch.equal(made.reward.model.score.weight, same.reward.model.score.weight)


def test_each_criterion_is_compared_with_the_incumbents_model_of_it(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    settings = dataclasses.replace(QUICK, epochs=1, heads=1, pessimism=0.0)
    (first, _), _ = criteria.train(policy, opposed(), settings, 3, report)
    (second, _), _ = criteria.train(policy, opposed(), settings, 3, report, incumbent=first.reward)
    found = {gate.name: gate for gate in second.gates if "incumbent" in gate.name}
    assert found.keys() == {"tone: nll_above_incumbent", "safe: nll_above_incumbent"}
    assert all(gate.value == pytest.approx(0.0, abs=1e-9) for gate in found.values())
