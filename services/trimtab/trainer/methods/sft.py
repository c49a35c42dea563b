"""Supervised fine-tuning: the policy learns to answer as demonstrations and edits do. Dispatched by `trainer.job`.

Loss: mean over all answer tokens of a step of -log p(token), so that neither micro-batches nor padding nor the length
of a neighbour changes what a token counts. Prompts are read, not learned.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import torch

from trimtab.core import errors
from trimtab.modeling import answers, loading, logprobs
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding, packing
from trimtab.trainer.steps import checkpoints, losses, optim, progress, ranks

# The kinds that say what an answer should have been.
TEACHING: tuple[datasets.Kind, ...] = ("demonstration", "edit")


@dataclasses.dataclass(frozen=True, slots=True)
class Demonstration:
    answer: answers.Answer
    weight: float


def train(
    policy: loading.LoadedPolicy,
    dataset: datasets.Dataset,
    settings: recipes.SFTSettings,
    seed: int,
    report: progress.Progress,
    *,
    among: ranks.Ranks = ranks.ALONE,
) -> dict[str, float]:
    """Trains the policy's weights in place; the run's figures. InvalidField when there is nothing to learn from."""
    skipped = encoding.Skipped()
    train_set = prepare(policy, dataset.of("train", *TEACHING), skipped)
    held_out = prepare(policy, dataset.of("held_out", *TEACHING), skipped)
    if not train_set:
        raise errors.InvalidField(
            "dataset_id",
            "holds no demonstration that can be trained on",
            "choose a data set with demonstrations or edits",
        )
    steps = packing.steps_of(len(train_set), settings.epochs, settings.batch)
    trained = dataclasses.replace(policy, model=among.shard(policy.model))
    optimizer = optim.for_model(trained.model, settings, steps, among=among)
    carried = checkpoints.Carried({"policy": trained.model}, {"policy": optimizer})
    done = report.begin("supervised fine-tuning", steps, carried)
    trained.model.train()
    order = packing.batches(train_set, settings.epochs, settings.batch, "sft", seed)
    for batch in itertools.islice(order, done, None):
        loss = accumulate(trained, batch, settings, among=among)
        norm = optimizer.step()
        optimizer.zero_grad()
        report.step({"loss_nats_per_token": loss, "gradient_norm": norm})
    among.gather(trained.model, policy.model)
    policy.model.eval()
    figures = {"demonstrations": float(len(train_set)), "steps_skipped": float(optimizer.skipped)}
    if held_out:
        figures["held_out_loss_nats_per_token"] = mean_loss(policy, held_out)
    return {**figures, "loss_nats_per_token": report.figures["loss_nats_per_token"], **skipped.figures()}


def prepare(
    policy: loading.LoadedPolicy, examples: Sequence[datasets.DatasetExample], skipped: encoding.Skipped
) -> list[Demonstration]:
    encoder = encoding.encoder_of(policy)
    kept = []
    for example in examples:
        answer = encoding.unusable(example) or encoder.encode(
            encoding.messages_of(example.prompt), example.demonstrated
        )
        if isinstance(answer, str):
            skipped.count(answer)
        else:
            kept.append(Demonstration(answer, example.weight))
    return kept


def accumulate(
    policy: loading.LoadedPolicy,
    batch: Sequence[Demonstration],
    settings: recipes.RunSettings,
    scale: float = 1.0,
    *,
    among: ranks.Ranks = ranks.ALONE,
) -> float:
    """Adds `scale` times the gradient of the step's loss to the weights' gradients; the loss, without the scale."""
    total = sum(one.weight * len(one.answer.response) for one in batch)
    loss = 0.0
    lengths = [len(one.answer) for one in batch]
    positions = logprobs.micro_batch_positions(policy.model, settings.micro_batch_positions)
    for part in among.parts(lengths, positions):
        term = part.counts * losses.token_mean(_weighted_nll(policy, [batch[i] for i in part.indices]), total)
        (scale * term).backward()  # type: ignore[no-untyped-call]
        loss += term.item()
    return among.total({"loss": loss})["loss"]


@torch.no_grad()
def mean_loss(policy: loading.LoadedPolicy, demonstrations: Sequence[Demonstration]) -> float:
    """-log p of an answer token, in nats, mean over all of them."""
    rows = logprobs.response_logprobs(
        policy.model,
        [one.answer.prompt for one in demonstrations],
        [one.answer.response for one in demonstrations],
    )
    return -torch.cat(rows).double().mean().item()


def _weighted_nll(policy: loading.LoadedPolicy, part: Sequence[Demonstration]) -> torch.Tensor:
    prompts, responses = [one.answer.prompt for one in part], [one.answer.response for one in part]
    weights_N = torch.tensor([one.weight for one in part for _ in one.answer.response], device=policy.model.device)
    return -logprobs.flat_logprobs(policy.model, prompts, responses) * weights_N
