"""One reward model learns from every kind of feedback at once, each judged by its own line."""

import dataclasses
import pathlib

import pytest
import torch
from tests.integration.training import making

from trimtab.core import models
from trimtab.modeling import loading, rewards
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.reward import fitting, hub, labels, material
from trimtab.trainer.steps import progress

torch.set_num_threads(1)
QUICK = recipes.RewardSettings(epochs=3, batch=8, lr=3e-3, warmup_steps=4)


def prepared(policy: loading.LoadedPolicy, settings: recipes.RewardSettings = QUICK) -> material.Feedback:
    encoder = encoding.encoder_of(policy)
    return material.prepare(encoder, making.every_kind(20).of("train"), settings, encoding.Skipped())


def test_every_kind_is_trained_judged_and_kept_in_the_hub(
    policy: loading.LoadedPolicy, report: progress.Progress, tmp_path: pathlib.Path
) -> None:
    made, skipped = fitting.train_both(policy, making.every_kind(), QUICK, 1, report)
    assert [one.kind for one in made] == [models.ModelKind.REWARD, models.ModelKind.EVALUATION_REWARD]
    assert set(skipped) <= {"skipped: duplicate"}
    for one in made:
        gates = {gate.name: gate for gate in one.gates}
        assert {f"{kind}_nll_below_constant" for kind in labels.KINDS} <= gates.keys()
        assert {f"{kind}_nll_above_bag_of_words" for kind in labels.KINDS} <= gates.keys()
        assert all(gate.passed for name, gate in gates.items() if name.endswith("constant")), gates
        assert one.figures["edit_accuracy"] > 0.9 and one.figures["ranking_accuracy"] > 0.7
        hub = one.reward.hub
        assert hub.ties is not None and len(hub.ranking_ties) == 1
        assert hub.stars.keys() == {"3"} and len(hub.stars["3"].cutpoints) == 2
        assert hub.slope != 1.0 and hub.stars["3"].slope != 1.0
    assert made[0].figures["signal_slope_lower"] > 0
    assert "signal_slope" not in made[1].figures
    rewards.save_reward_model(made[0].reward, tmp_path)
    assert rewards.load_reward_model(tmp_path).hub == made[0].reward.hub


def test_the_loss_is_the_same_for_every_split_into_micro_batches(policy: loading.LoadedPolicy) -> None:
    feedback = prepared(policy)
    terms = hub.RewardTerms(feedback, QUICK)
    rewards_of = dict(zip(feedback.answers(), torch.linspace(-2, 2, len(feedback.answers())).tolist(), strict=True))

    def loss(items: list[material.Item]) -> float:
        ordered = material.in_order(items)
        scores = torch.tensor([rewards_of[answer] for item in ordered for answer in item.answers])
        return terms.loss(scores, ordered).item()

    whole = loss(list(feedback.items))
    for size in (1, 3, 7):
        pieces = [list(feedback.items[start::size]) for start in range(size)]
        assert sum(map(loss, pieces)) == pytest.approx(whole, rel=1e-5)


def test_the_centre_term_is_for_comparisons_alone(policy: loading.LoadedPolicy) -> None:
    feedback = prepared(policy)
    compared = material.Feedback(tuple(item for item in feedback.items if len(item.answers) > 1))
    for some, is_centred in ((compared, True), (feedback, False)):
        terms = hub.RewardTerms(some, QUICK)
        pairs = some.of("pair") + some.of("edit") + some.of("ranking")
        counts = sum(len(item.answers) for item in pairs)
        level = (terms.loss(torch.full((counts,), 5.0), pairs) - terms.loss(torch.zeros(counts), pairs)).item()
        assert level == pytest.approx(0.01 * 100 * len(pairs) if is_centred else 0.0, abs=1e-2)


def test_soft_labels_and_margins_are_for_comparisons_and_not_for_edits(policy: loading.LoadedPolicy) -> None:
    encoder = encoding.encoder_of(policy)
    chosen, rejected = making.KIND.format("red"), making.RUDE.format("red")
    rows = [
        datasets.DatasetExample(kind, "train", kind, making.prompt("red"), chosen=chosen, rejected=rejected, strength=s)
        for kind, s in (("pair", 0.5), ("edit", None))
    ]
    settings = dataclasses.replace(QUICK, agreement=0.8, strength_margin=2.0)
    feedback = material.prepare(encoder, rows, settings, encoding.Skipped())
    terms = hub.RewardTerms(feedback, settings)
    terms.only_compares = False
    gap = torch.tensor([1.2, 0.0])
    soft = -0.8 * torch.nn.functional.logsigmoid(torch.tensor(0.2)) - 0.2 * torch.nn.functional.logsigmoid(
        torch.tensor(-0.2)
    )
    assert terms.loss(gap, feedback.of("pair")).item() == pytest.approx(soft.item(), abs=1e-6)
    hard = -torch.nn.functional.logsigmoid(torch.tensor(1.2))
    assert terms.loss(gap, feedback.of("edit")).item() == pytest.approx(hard.item(), abs=1e-6)


def test_a_rater_with_enough_thumbs_has_a_temper_of_his_own_that_nobody_keeps() -> None:
    thumbs = [labels.Thumb(f"t{n}", n % 2 == 0, "app", "often" if n < 5 else f"r{n}") for n in range(12)]
    feedback = material.Feedback(tuple(material.Item(thumb, ()) for thumb in thumbs))
    terms = hub.RewardTerms(feedback, QUICK)
    assert terms.thumbs.rater_numbers == {"often": 0}
    assert "often" not in repr(terms.hub())
