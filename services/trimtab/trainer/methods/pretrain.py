"""Continued pretraining on plain text: the base model a line starts from learns its language. From `trainer.job`.

Documents, each closed by the end-of-sequence token, are laid end to end and cut into blocks of equal length; a token
sees all of its block before it, also what is of another document, as in Brown et al. 2020, section 2.2: the closing
token tells it to forget. Loss: mean over all predicted tokens of a step of -log p(token). What comes out is a base: it
knows no conversation, or has forgotten some of it, and is made a policy by demonstrations.
"""

import itertools
import math
from collections.abc import Sequence

import torch

from trimtab.core import errors
from trimtab.modeling import loading, logprobs
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding, packing
from trimtab.trainer.steps import checkpoints, losses, optim, progress

Block = tuple[int, ...]


def train(
    policy: loading.LoadedPolicy,
    dataset: datasets.Dataset,
    settings: recipes.PretrainSettings,
    seed: int,
    report: progress.Progress,
) -> dict[str, float]:
    """Trains the model's weights in place; the run's figures. InvalidField when there is no text to learn from."""
    skipped = encoding.Skipped()
    documents = prepare(policy, dataset.of("train", "text"), skipped)
    kept_out = dataset.of("held_out", "text")
    held_out = prepare(policy, kept_out, skipped)
    if not any(len(document) > 1 for document in documents):
        raise errors.InvalidField(
            "dataset_id", "holds no text that can be trained on", 'publish a file of {"text": ...} lines'
        )
    length = min(settings.block_tokens, loading.context_tokens(policy.model))
    steps = math.ceil(packing.blocks_of(documents, settings.epochs, length) / settings.batch)
    optimizer = optim.for_model(policy.model, settings, steps)
    carried = checkpoints.Carried({"policy": policy.model}, {"policy": optimizer})
    done = report.begin("pretraining", steps, carried)
    blocks = packing.blocks(documents, settings.epochs, length, seed)
    policy.model.train()
    for batch in itertools.islice(packing.grouped(blocks, settings.batch), done, None):
        loss = accumulate(policy, batch, settings)
        norm = optimizer.step()
        optimizer.zero_grad()
        report.step({"loss_nats_per_token": loss, "gradient_norm": norm})
    policy.model.eval()
    figures = {
        "documents": float(len(documents)),
        "tokens": float(sum(map(len, documents))),
        "steps_skipped": float(optimizer.skipped),
    }
    if held_out:
        size = sum(len(one.response.encode()) for one in kept_out if not encoding.unusable(one))
        figures |= measure(policy, held_out, length, size)
    return {**report.figures, **figures, **skipped.figures()}


def prepare(
    policy: loading.LoadedPolicy, examples: Sequence[datasets.DatasetExample], skipped: encoding.Skipped
) -> list[Block]:
    """The tokens of each document with the end-of-sequence token after it."""
    end = policy.tokenizer.eos_token_id
    if end is None:
        raise errors.ArtifactCorrupt("The tokenizer has no end-of-sequence token: documents could not end.")
    kept = []
    for example in examples:
        if problem := encoding.unusable(example):
            skipped.count(problem)
            continue
        tokens = policy.tokenizer.encode(example.response)
        kept.append((*tokens, end) if tokens[-1:] != [end] else tuple(tokens))
    return kept


def accumulate(policy: loading.LoadedPolicy, batch: Sequence[Block], settings: recipes.RunSettings) -> float:
    """Adds the gradient of the step's loss to the weights' gradients; the loss, in nats a token."""
    total = sum(len(block) - 1 for block in batch)
    loss = 0.0
    positions = logprobs.micro_batch_positions(policy.model, settings.micro_batch_positions)
    for indices in logprobs.batches_by_length([len(block) for block in batch], positions):
        part = [batch[i] for i in indices]
        term = losses.token_mean(-_logprobs(policy, part), total)
        term.backward()  # type: ignore[no-untyped-call]
        loss += term.item()
    return loss


@torch.no_grad()
def measure(policy: loading.LoadedPolicy, documents: Sequence[Block], length: int, size_bytes: int) -> dict[str, float]:
    """The loss on documents that are not learned from, and in bits per byte of text: the same for every tokenizer."""
    blocks = list(packing.blocks(documents, 1, length, seed=0))
    nats, tokens = 0.0, 0
    for indices in logprobs.batches_by_length([len(block) for block in blocks], logprobs.FORWARD_POSITIONS):
        given_N = _logprobs(policy, [blocks[i] for i in indices])
        nats, tokens = nats - given_N.double().sum().item(), tokens + given_N.numel()
    if not tokens:
        return {}
    return {
        "held_out_loss_nats_per_token": nats / tokens,
        "held_out_bits_per_byte": nats / math.log(2) / size_bytes,
    }


def _logprobs(policy: loading.LoadedPolicy, blocks: Sequence[Block]) -> torch.Tensor:
    """logprobs_N of every token of each block but its first."""
    return logprobs.flat_logprobs(policy.model, [block[:1] for block in blocks], [block[1:] for block in blocks])
