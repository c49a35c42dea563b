"""A reward model and the lines beside it are judged by the weights that they learned with."""

import dataclasses
import types

import pytest
import torch
from tests.unit.trainer.reward import simulating

from trimtab.trainer import recipes
from trimtab.trainer.reward import baselines, calibration, hub, judging, labels, material

torch.set_num_threads(1)


class OneToken(torch.nn.Module):
    """A reward for each of the crowd's texts, as an encoder with a head of one layer has it."""

    config = types.SimpleNamespace(pad_token_id=None, type_vocab_size=1)
    device = torch.device("cpu")

    def __init__(self, rewards: list[float]) -> None:
        super().__init__()
        self.head = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(self.head.weight)
        self.rewards = torch.tensor(rewards).unsqueeze(1)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        scores_B_1: torch.Tensor = self.head(self.rewards[input_ids[:, 0]])
        return scores_B_1


def crowd_says(seed: int, weight: float = 1.0) -> list[material.Item]:
    crowd = simulating.Crowd(seed)
    said = [
        item
        for one in (crowd.pair_or_tie, crowd.thumb, crowd.rating, crowd.ranking)
        for item in crowd.say(40, one)  # type: ignore[arg-type]  # of either kind
    ]
    return [dataclasses.replace(item, weight=weight) for item in said]


def feedback(*parts: list[material.Item]) -> material.Feedback:
    return material.Feedback(tuple(material.in_order([item for part in parts for item in part])))


def test_an_example_of_weight_2_counts_as_two_examples_in_every_figure_and_gate() -> None:
    crowd = simulating.Crowd(1)
    seen = feedback(crowd_says(2))
    terms, model = hub.RewardTerms(seen, recipes.RewardSettings()), OneToken(crowd.rewards)
    heavy, light = crowd_says(3), crowd_says(4)
    weighed = judging.judge(
        model, terms, seen, feedback([dataclasses.replace(item, weight=2.0) for item in heavy], light)
    )
    repeated = judging.judge(model, terms, seen, feedback(heavy, heavy, light))
    one_each = judging.judge(model, terms, seen, feedback(heavy, light))
    compared = [name for name in repeated.figures if not name.endswith("_judged")]
    assert len(compared) > 12
    for name in compared:
        assert weighed.figures[name] == pytest.approx(repeated.figures[name], abs=1e-6), name
    for mine, theirs in zip(weighed.gates, repeated.gates, strict=True):
        assert mine.value == pytest.approx(theirs.value, abs=1e-6), mine.name
        if mine.name.endswith("constant"):
            assert mine.threshold == pytest.approx(theirs.threshold, abs=1e-6), mine.name
    assert weighed.figures["thumb_nll"] != pytest.approx(one_each.figures["thumb_nll"], abs=1e-4)
    assert weighed.figures["thumbs_judged"] == 80
    assert weighed.figures["thumbs_judged_effective"] == pytest.approx(120**2 / (40 * 4 + 40))
    assert "by weight, over 80 that tell as much as 72 of equal weight" in weighed.gates[0].detail


def test_recent_figures_count_weights_as_well() -> None:
    crowd = simulating.Crowd(1)
    seen = feedback(crowd_says(2))
    terms, model = hub.RewardTerms(seen, recipes.RewardSettings()), OneToken(crowd.rewards)
    heavy, light = crowd_says(3), crowd_says(4)
    weighed = calibration.of_recent(model, terms, feedback(crowd_says(3, weight=2.0), light))
    repeated = calibration.of_recent(model, terms, feedback(heavy, heavy, light))
    compared = [name for name in repeated if not name.endswith(("_count", "s"))]
    assert {"recent_thumb_brier", "recent_pair_accuracy", "recent_thumb_calibration_slope"} <= set(compared)
    for name in compared:
        assert weighed[name] == pytest.approx(repeated[name], abs=1e-5), name


def test_words_are_learned_from_whom_the_weights_trust() -> None:
    """Six in ten dislike "thanks" and weigh a quarter each: by weight most like it."""
    likes, dislikes = labels.Pair("x thanks", "x whatever"), labels.Pair("x whatever", "x thanks")
    said, weights = [likes] * 40 + [dislikes] * 60, [1.0] * 40 + [0.25] * 60
    trusting = baselines.bag_of_words(said, said, weights, weights)
    assert trusting.accuracy == pytest.approx(40 / 55)
    assert baselines.bag_of_words(said, said).accuracy == pytest.approx(0.6)
    assert trusting.nll < baselines.best_constant(said, weights).nll - 0.02
