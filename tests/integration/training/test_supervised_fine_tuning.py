"""SFT learns the answers and nothing else; what cannot be used is counted."""

import dataclasses
import math

import pytest
import torch
from tests.integration.training import making

from trimtab.core import errors
from trimtab.modeling import loading, logprobs
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.methods import sft
from trimtab.trainer.steps import progress

torch.set_num_threads(1)
QUICK = recipes.SFTSettings(epochs=8, batch=8, lr=5e-3, warmup_steps=4)


def prepared(policy: loading.LoadedPolicy) -> list[sft.Demonstration]:
    return sft.prepare(policy, making.demonstrations(24).of("train"), encoding.Skipped())


def test_the_answers_become_likely_also_on_prompts_that_were_held_out(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    dataset = making.demonstrations()
    before = sft.mean_loss(policy, sft.prepare(policy, dataset.of("held_out"), encoding.Skipped()))
    figures = sft.train(policy, dataset, QUICK, 1, report)
    assert before == pytest.approx(math.log(len(policy.tokenizer)), abs=0.7)
    assert figures["held_out_loss_nats_per_token"] < 0.5 * before
    assert figures["steps_skipped"] == 0


def test_every_token_of_the_step_weighs_the_same_and_prompts_weigh_nothing(policy: loading.LoadedPolicy) -> None:
    policy.model.double()
    batch = prepared(policy)[:5]
    rows = logprobs.response_logprobs(
        policy.model, [one.answer.prompt for one in batch], [one.answer.response for one in batch]
    )
    loss = sft.accumulate(policy, batch, QUICK)
    assert loss == pytest.approx(-torch.cat(rows).mean().item(), abs=1e-12)


def test_a_weight_that_is_no_number_reaches_no_weight_of_the_policy(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    rows = [
        dataclasses.replace(one, weight=math.nan if i == 3 else 1.0)
        for i, one in enumerate(making.demonstrations(24).examples)
    ]
    figures = sft.train(policy, datasets.Dataset(rows), dataclasses.replace(QUICK, epochs=1), 1, report)
    assert figures["skipped: weight that is no positive number"] == 1 and figures["steps_skipped"] == 0
    assert all(torch.isfinite(weight).all() for weight in policy.model.parameters())


def test_an_edit_teaches_its_corrected_answer(policy: loading.LoadedPolicy, report: progress.Progress) -> None:
    shown = making.demonstrations()
    edits = [
        dataclasses.replace(one, kind="edit", chosen=one.response, rejected="Never.", response="")
        for one in shown.examples
    ]
    encoder_of = [sft.prepare(policy, rows, encoding.Skipped()) for rows in (shown.examples, edits)]
    assert encoder_of[0] == encoder_of[1]
    figures = sft.train(policy, datasets.Dataset(edits), dataclasses.replace(QUICK, epochs=1), 1, report)
    assert figures["demonstrations"] == len(shown.of("train"))


def test_an_answer_longer_than_the_context_is_left_out_and_counted(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    dataset = making.demonstrations(24)
    long = dataclasses.replace(dataset.examples[0], id="long", response="red " * 200)
    figures = sft.train(policy, datasets.Dataset([*dataset.examples, long]), QUICK, 1, report)
    assert figures["skipped: too long"] == 1
    assert figures["demonstrations"] == 21


@pytest.mark.parametrize("dataset", [datasets.Dataset([]), making.feedback(6, 6)], ids=["empty", "only feedback"])
def test_nothing_to_learn_from_is_refused(
    policy: loading.LoadedPolicy, report: progress.Progress, dataset: datasets.Dataset
) -> None:
    with pytest.raises(errors.InvalidField, match="no demonstration"):
        sft.train(policy, dataset, QUICK, 1, report)
