"""Reward models from all feedback: the one that decides, and the one that judges. Dispatched by `trainer.job`.

One run makes both. The *deciding* model trains on the split "train" and is what policies are optimised against. The
*evaluation* model trains on the split "held_out" only and judges policies; it never trains anything that decides.

Each is judged on the split the other trained on, which it never saw (the two together are a cross-fit over two folds):
so no example is spent on judging alone. Likelihoods are in `trainer.reward.hub`, gates in
`trainer.reward.judging`.
"""

import dataclasses
import itertools
import random
from collections.abc import Iterator, Sequence

from trimtab.core import errors, models
from trimtab.modeling import loading, logprobs, rewards
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.reward import hub, judging, labels, material, signals
from trimtab.trainer.steps import checkpoints, optim, progress


@dataclasses.dataclass(frozen=True, slots=True)
class TrainedReward:
    """A reward model with its verdict. figures: everything measured, by name."""

    kind: models.ModelKind
    reward: rewards.LoadedReward
    gates: tuple[models.GateFigure, ...]
    figures: dict[str, float]


def train_both(
    parent: loading.LoadedPolicy,
    dataset: datasets.Dataset,
    settings: recipes.RewardSettings,
    seed: int,
    report: progress.Progress,
) -> tuple[list[TrainedReward], dict[str, float]]:
    """The deciding and the evaluation reward model, and what was skipped. InvalidField when nothing can be judged."""
    skipped = encoding.Skipped()
    encoder = encoding.encoder_of(parent)
    prepared = [material.prepare(encoder, dataset.of(split), settings, skipped) for split in ("train", "held_out")]
    train, held_out = material.judged_kinds(prepared[0], prepared[1], settings.minimum_examples, skipped)
    if not len(train):
        raise errors.InvalidField("dataset_id", _too_little(prepared, settings), "collect more feedback first")
    observed = signals.prepare(encoder, dataset.of("held_out", "signal"), skipped)
    least = None
    if settings.surprise:
        others = held_out.answers() + [answer for item in observed for answer in item.answers]
        least = hub.Least.of(parent.model, train.answers(), others)
    made = []
    for kind, seen, unseen in (
        (models.ModelKind.REWARD, train, held_out),
        (models.ModelKind.EVALUATION_REWARD, held_out, train),
    ):
        reward, terms = fit(parent, seen, settings, seed=seed, report=report, least=least, kind=kind)
        verdict = judging.judge(reward.model, terms, seen, unseen)
        figures = verdict.figures
        if kind is models.ModelKind.REWARD and observed:
            figures = figures | signals.figures(observed, judging.rewards_of(reward.model, terms, observed))
        made.append(TrainedReward(kind, reward, verdict.gates, figures))
    return made, skipped.figures()


def fit(
    parent: loading.LoadedPolicy,
    feedback: material.Feedback,
    settings: recipes.RewardSettings,
    *,
    seed: int,
    report: progress.Progress,
    least: hub.Least | None = None,
    kind: models.ModelKind = models.ModelKind.REWARD,
) -> tuple[rewards.LoadedReward, hub.RewardTerms]:
    """A reward model from the parent's body, trained on all of this feedback."""
    reward = rewards.from_policy(parent)
    reward.model.get_input_embeddings().requires_grad_(settings.train_embeddings)
    terms = hub.RewardTerms(feedback, settings, least)
    steps = settings.epochs * -(-len(feedback) // settings.batch)
    groups = [
        *optim.groups_of(reward.model, settings),
        *optim.groups_of(terms, dataclasses.replace(settings, optimizer="adamw", weight_decay=0.0), settings.terms_lr),
    ]
    optimizer = optim.Optimizer(settings, steps, groups)
    carried = checkpoints.Carried({"reward": reward.model, "terms": terms}, {"reward": optimizer})
    done = report.begin(f"{kind.value.replace('_', ' ')} model", steps, carried)
    reward.model.train()
    for batch in itertools.islice(_batches(feedback, settings, encoding.seed_of(seed, kind.value)), done, None):
        loss = _accumulate(reward, terms, batch, len(feedback), settings)
        norm = optimizer.step()
        optimizer.zero_grad()
        report.step({"loss_nats_per_example": loss, "gradient_norm": norm})
    reward.model.eval()
    reference = parent.model if least is not None else None
    return dataclasses.replace(reward, hub=terms.hub(), reference=reference), terms


def _batches(feedback: material.Feedback, settings: recipes.RewardSettings, seed: int) -> Iterator[list[material.Item]]:
    every = feedback.items
    for epoch in range(settings.epochs):
        order = list(range(len(every)))
        random.Random(encoding.seed_of(seed, epoch)).shuffle(order)
        for start in range(0, len(order), settings.batch):
            yield [every[i] for i in order[start : start + settings.batch]]


def _accumulate(
    reward: rewards.LoadedReward,
    terms: hub.RewardTerms,
    batch: Sequence[material.Item],
    examples: int,
    settings: recipes.RewardSettings,
) -> float:
    """Adds the gradient of the step's mean loss (likelihoods plus the step's share of the prior); the mean loss."""
    weight = sum(one.weight for one in batch)
    prior = terms.prior_penalty() / examples
    prior.backward()  # type: ignore[no-untyped-call]
    loss = prior.item()
    for indices in logprobs.batches_by_length([_positions(one) for one in batch], settings.micro_batch_positions):
        part = material.in_order(batch[i] for i in indices)
        rewards_B = terms.of(reward.model, [answer for item in part for answer in item.answers])
        term = terms.loss(rewards_B, part) / weight
        term.backward()  # type: ignore[no-untyped-call]
        loss += term.item()
    return loss


def _positions(one: material.Item) -> int:
    return len(one.answers) * max(map(len, one.answers))


def _too_little(prepared: Sequence[material.Feedback], settings: recipes.RewardSettings) -> str:
    has = ", ".join(
        f"{len(prepared[0].of(kind))} {kind}s to train on and {len(prepared[1].of(kind))} to judge by"
        for kind in labels.KINDS
        if any(split.of(kind) for split in prepared)
    )
    return (
        f"has {has or 'no feedback'}, and a kind needs {settings.minimum_examples} in each (stars of scale S, S - 1 "
        "times as many), not all of them alike"
    )
