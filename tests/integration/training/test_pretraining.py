"""Pretraining learns plain text in blocks; a resumed run reads on where it stopped; no gradient depends on the cut."""

import dataclasses
import math
import pathlib

import pytest
import torch
from tests.integration.training import making

from trimtab.core import errors
from trimtab.modeling import loading
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding, packing
from trimtab.trainer.methods import pretrain
from trimtab.trainer.steps import progress

torch.set_num_threads(1)
QUICK = recipes.PretrainSettings(epochs=12, batch=4, lr=1e-2, warmup_steps=2, block_tokens=32)


def test_text_becomes_likely_also_where_it_was_held_out(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    dataset = making.texts()
    documents = pretrain.prepare(policy, dataset.of("held_out"), encoding.Skipped())
    size = sum(len(one.response.encode()) for one in dataset.of("held_out"))
    before = pretrain.measure(policy, documents, 32, size)
    figures = pretrain.train(policy, dataset, QUICK, 1, report)
    assert before["held_out_loss_nats_per_token"] == pytest.approx(math.log(len(policy.tokenizer)), abs=0.7)
    assert figures["held_out_loss_nats_per_token"] < 0.6 * before["held_out_loss_nats_per_token"]
    ratio = figures["held_out_bits_per_byte"] / figures["held_out_loss_nats_per_token"]
    assert ratio == pytest.approx((sum(map(len, documents)) - 1) / size / math.log(2))
    assert figures["documents"] == 50 and figures["steps_skipped"] == 0


def test_a_step_s_loss_is_the_mean_over_its_tokens_whatever_it_is_cut_into(policy: loading.LoadedPolicy) -> None:
    policy.model.double()
    documents = pretrain.prepare(policy, making.texts().of("train"), encoding.Skipped())
    batch = list(packing.blocks(documents, 1, 20, 1))[-5:]
    assert len({len(block) for block in batch}) == 2
    whole, gradients = 0.0, []
    for positions in (100_000, 1, 45):
        policy.model.zero_grad()
        loss = pretrain.accumulate(policy, batch, dataclasses.replace(QUICK, micro_batch_positions=positions))
        mine = [weight.grad.clone() for weight in policy.model.parameters()]
        whole, gradients = (loss, mine) if positions == 100_000 else (whole, gradients)
        assert loss == pytest.approx(whole, abs=1e-10)
        for one, other in zip(gradients, mine, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    by_hand = torch.cat(
        [
            torch.nn.functional.cross_entropy(
                policy.model(input_ids=torch.tensor([block[:-1]])).logits[0], torch.tensor(block[1:]), reduction="none"
            )
            for block in batch
        ]
    )
    assert whole == pytest.approx(by_hand.mean().item(), abs=1e-10)


def test_a_document_ends_with_the_end_of_sequence_token_once(policy: loading.LoadedPolicy) -> None:
    rows = making.texts(2).examples
    for document in pretrain.prepare(policy, rows, encoding.Skipped()):
        assert document[-1] == policy.tokenizer.eos_token_id
        assert document.count(policy.tokenizer.eos_token_id) == 1


def test_blocks_are_as_long_as_the_context_at_most_and_the_last_step_may_be_smaller(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    settings = dataclasses.replace(QUICK, block_tokens=10_000, epochs=1)
    figures = pretrain.train(policy, making.texts(), settings, 1, report)
    assert figures["tokens"] > 96 and math.isfinite(figures["loss_nats_per_token"])


def test_empty_documents_are_counted_and_a_data_set_without_text_is_refused(
    policy: loading.LoadedPolicy, tmp_path: pathlib.Path, report: progress.Progress
) -> None:
    empty = dataclasses.replace(making.texts(1).examples[0], id="empty", response="  ")
    figures = pretrain.train(
        policy, datasets.Dataset([*making.texts(12).examples, empty]), dataclasses.replace(QUICK, epochs=1), 1, report
    )
    assert figures["skipped: empty text"] == 1 and figures["documents"] == 10
    with pytest.raises(errors.InvalidField, match="holds no text"):
        pretrain.train(policy, making.demonstrations(), QUICK, 1, progress.Progress(tmp_path))


def test_documents_are_no_prompts() -> None:
    assert encoding.distinct_prompts(making.texts().examples) == []
