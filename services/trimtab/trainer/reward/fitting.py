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
from typing import Any

import torch

from trimtab.core import errors, models
from trimtab.modeling import heads, loading, logprobs, rewards
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.reward import (
    calibration,
    ensembles,
    hub,
    incumbents,
    judging,
    labels,
    material,
    probing,
    scores,
    signals,
)
from trimtab.trainer.steps import adapting, checkpoints, optim, progress, ranks


@dataclasses.dataclass(frozen=True, slots=True)
class TrainedReward:
    """A reward model with its verdict. figures: everything measured, by name."""

    kind: models.ModelKind
    reward: rewards.LoadedReward
    gates: tuple[models.GateFigure, ...]
    figures: dict[str, float]


# Steps that changed nothing, because their gradient was no number.
SKIPPED = "steps_skipped"
Parent = loading.LoadedPolicy | rewards.LoadedReward


def train_both(
    parent: Parent,
    dataset: datasets.Dataset,
    settings: recipes.RewardSettings,
    seed: int,
    report: progress.Progress,
    *,
    incumbent: rewards.LoadedReward | None = None,
    criterion: str | None = None,
    among: ranks.Ranks = ranks.ALONE,
) -> tuple[list[TrainedReward], dict[str, float]]:
    """The deciding and the evaluation reward model, and what was skipped. InvalidField when nothing can be judged.

    incumbent: the reward model that the deciding one must not be worse than. criterion: learn from its feedback only.
    """
    skipped = encoding.Skipped()
    encoder = parent.encoder if isinstance(parent, rewards.LoadedReward) else encoding.encoder_of(parent)
    dataset = _about(dataset, criterion, skipped)
    prepared = [material.prepare(encoder, dataset.of(split), settings, skipped) for split in ("train", "held_out")]
    earlier, recent = material.latest(prepared[0], settings.recent_share)
    train, held_out = material.judged_kinds(earlier, prepared[1], settings.minimum_examples, skipped)
    if not len(train):
        raise errors.InvalidField("dataset_id", _too_little(prepared, settings), "collect more feedback first")
    recent = material.foreseen(recent, train)
    observed = signals.prepare(encoder, dataset.of("held_out", "signal"), skipped)
    least = None
    if settings.surprise:
        others = [answer for item in (*held_out.items, *recent.items, *observed) for answer in item.answers]
        least = hub.Least.of(_reference(parent), train.answers(), others)
    made = []
    for kind, seen, unseen in (
        (models.ModelKind.REWARD, train, held_out),
        (models.ModelKind.EVALUATION_REWARD, held_out, train),
    ):
        reward, terms = fit(
            parent, seen, settings, seed=seed, report=report, least=least, kind=kind, criterion=criterion, among=among
        )
        verdict = judging.judge(reward.model, terms, seen, unseen)
        gates, figures = verdict.gates, verdict.figures | judging.disagreement(reward, unseen)
        figures[SKIPPED] = report.figures.get(SKIPPED, 0.0)
        if kind is models.ModelKind.REWARD:
            figures |= calibration.of_recent(reward.model, terms, recent)
            if observed:
                figures |= signals.figures(observed, scores.rewards_of(reward.model, terms, observed))
            if incumbent is not None:
                compared = incumbents.compare(reward, incumbent, dataset.of("held_out"), settings)
                gates, figures = gates + compared.gates, figures | compared.figures
        made.append(TrainedReward(kind, reward, gates, figures))
    return made, skipped.figures()


def fit(
    parent: Parent,
    feedback: material.Feedback,
    settings: recipes.RewardSettings,
    *,
    seed: int,
    report: progress.Progress,
    least: hub.Least | None = None,
    kind: models.ModelKind = models.ModelKind.REWARD,
    criterion: str | None = None,
    among: ranks.Ranks = ranks.ALONE,
) -> tuple[rewards.LoadedReward, hub.RewardTerms]:
    """A reward model from the parent's body, trained on all of this feedback."""
    reward = _begun(parent, settings)
    _check_head(reward.model, settings)
    if settings.train_body:
        adapting.prepare(reward.model, settings, encoding.seed_of(seed, "adapters", kind.value))
    if not settings.train_embeddings:
        reward.model.get_input_embeddings().requires_grad_(False)
    terms = hub.RewardTerms(feedback, settings, least)
    seed = encoding.seed_of(seed, kind.value, *([] if criterion is None else [criterion]))
    ensemble = None
    if settings.heads > 1:
        drawn = encoding.seed_of(seed, "heads")
        ensemble = ensembles.Ensemble(reward.model, settings.heads, len(feedback), drawn)
    learner = Learner(reward, terms, ensemble, feedback, settings, among)
    features_B_D = None
    if settings.train_body:
        trained = dataclasses.replace(reward, model=among.shard(reward.model))
        dataclasses.replace(learner, reward=trained).train(_phase(kind, criterion), seed, report)
        among.gather(trained.model, reward.model)
    else:
        features_B_D = learner.probe(_phase(kind, criterion), least, report)
    adapting.finish(reward.model)
    found = learner.settled(features_B_D)
    pessimism = settings.pessimism if kind is models.ModelKind.REWARD else 0.0
    described = dataclasses.replace(terms.hub(), pessimism=pessimism)
    reference = _reference(parent) if least is not None else None
    return dataclasses.replace(reward, hub=described, reference=reference, ensemble=found), terms


@dataclasses.dataclass(frozen=True, slots=True)
class Learner:
    """What one fit moves, and the gradient of its steps."""

    reward: rewards.LoadedReward
    terms: hub.RewardTerms
    ensemble: ensembles.Ensemble | None
    feedback: material.Feedback
    settings: recipes.RewardSettings
    among: ranks.Ranks = ranks.ALONE

    def train(self, phase: str, seed: int, report: progress.Progress) -> None:
        """All weights, in steps."""
        settings, feedback = self.settings, self.feedback
        steps = settings.epochs * -(-len(feedback) // settings.batch)
        optimizer, carried = self.begin(steps)
        done = report.begin(phase, steps, carried)
        self.reward.model.train()
        for batch in itertools.islice(_batches(len(feedback), settings, seed), done, None):
            loss = self.accumulate(batch)
            norm = optimizer.step()
            optimizer.zero_grad()
            report.step({"loss_nats_per_example": loss, "gradient_norm": norm, SKIPPED: float(optimizer.skipped)})
        self.reward.model.eval()

    def probe(self, phase: str, least: hub.Least | None, report: progress.Progress) -> torch.Tensor:
        """The head alone, at once (`trainer.reward.probing`). features_B_D: of the answers."""
        features_B_D = probing.read(self.reward.model, self.feedback.answers(), phase, report)
        report.begin(phase, 1)
        begun = probing.Begun(
            self.reward, self.terms, self.ensemble, lambda: hub.RewardTerms(self.feedback, self.settings, least)
        )
        report.step(probing.fit(begun, features_B_D, self.feedback))
        return features_B_D

    def begin(self, steps: int) -> tuple[optim.Optimizer, checkpoints.Carried]:
        undecayed = dataclasses.replace(self.settings, optimizer="adamw", weight_decay=0.0)
        modules = {"reward": self.reward.model, "terms": self.terms}
        groups = [
            *optim.groups_of(self.reward.model, self.settings),
            *optim.groups_of(self.terms, undecayed, self.settings.terms_lr),
        ]
        if self.ensemble is not None:
            modules["ensemble"] = self.ensemble
            groups += optim.groups_of(self.ensemble, undecayed)
        optimizer = optim.Optimizer(self.settings, steps, groups, self.among)
        return optimizer, checkpoints.Carried(modules, {"reward": optimizer})

    def accumulate(self, batch: Sequence[int]) -> float:
        """Adds the gradient of the step's mean loss (likelihoods plus the step's share of the prior); the mean loss.

        batch: numbers of the feedback's items.
        """
        every = self.feedback.items
        weight = sum(every[i].weight for i in batch)
        loss = 0.0
        if self.among.is_first:  # once
            prior = self.terms.prior_penalty() / len(every)
            prior.backward()  # type: ignore[no-untyped-call]
            loss = prior.item()
        sizes = [_positions(every[i]) for i in batch]
        positions = logprobs.micro_batch_positions(self.reward.model, self.settings.micro_batch_positions)
        for part in self.among.parts(sizes, positions):
            numbers = [batch[i] for i in part.indices]
            numbers.sort(key=lambda number: labels.KINDS.index(every[number].label.kind))
            term = part.counts * self._loss(numbers) / weight
            term.backward()  # type: ignore[no-untyped-call]
            loss += term.item()
        return self.among.total({"loss": loss})["loss"]

    def _loss(self, numbers: Sequence[int]) -> torch.Tensor:
        """Weighted sum over these items; of an ensemble the mean of its heads'."""
        part = [self.feedback.items[i] for i in numbers]
        encoded = [answer for item in part for answer in item.answers]
        if self.ensemble is None:
            return self.terms.loss(self.terms.of(self.reward.model, encoded), part)
        features_B_D = heads.features_at_last(self.reward.model, encoded)
        means_B = self.terms.added_to(heads.head_of(self.reward.model)(features_B_D)[:, 0].cpu(), encoded)
        rewards_K_B = self.ensemble.rewards(features_B_D.cpu(), means_B)
        shares_P_K = self.ensemble.shares_P_K[numbers]
        losses = [
            self.terms.loss(rewards_B, part, shares_P_K[:, k]) for k, rewards_B in enumerate(rewards_K_B.unbind())
        ]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def settled(self, features_B_D: torch.Tensor | None) -> heads.Heads | None:
        """The finished heads, if there is an ensemble; the model's own head is their mean. Reads features not given."""
        if self.ensemble is None:
            return None
        every = self.feedback.answers()
        if features_B_D is not None:
            return self.ensemble.settle(self.reward.model, features_B_D.sum(dim=0), len(every))
        sums_D = torch.zeros(heads.head_of(self.reward.model).in_features, dtype=torch.float64)
        for indices in logprobs.batches_by_length([len(one) for one in every], logprobs.FORWARD_POSITIONS):
            features_B_D = heads.features_at_last(self.reward.model, [every[i] for i in indices])
            sums_D += features_B_D.double().sum(dim=0)
        return self.ensemble.settle(self.reward.model, sums_D, len(every))


def _begun(parent: Parent, settings: recipes.RewardSettings) -> rewards.LoadedReward:
    if isinstance(parent, loading.LoadedPolicy):
        return rewards.from_policy(parent, settings.body_layers)
    if settings.body_layers:
        raise errors.InvalidField(
            "settings_json.body_layers", "is for a policy and the parent is a reward model", "leave it out"
        )
    return rewards.continued(parent)


def _check_head(model: Any, settings: recipes.RewardSettings) -> None:
    """A head alone, and an ensemble of heads, are fitted in place of one linear layer."""
    head = heads.head_of(model)
    if not isinstance(head, torch.nn.Linear):
        made = f"the reward model's head is a {type(head).__name__} and no linear layer"
        if not settings.train_body:
            raise errors.InvalidField("settings_json.train_body", f"is false and {made}", "leave it true")
        if settings.heads > 1:
            raise errors.InvalidField("settings_json.heads", f"is {settings.heads} and {made}", "leave it 1")


def _reference(parent: Parent) -> Any:
    """The frozen policy that the surprise is measured under."""
    if isinstance(parent, loading.LoadedPolicy):
        return parent.model
    if parent.reference is None:
        raise errors.InvalidField(
            "settings_json.surprise", "needs a policy and the parent is a reward model without one", "turn it off"
        )
    return parent.reference


def _about(dataset: datasets.Dataset, criterion: str | None, skipped: encoding.Skipped) -> datasets.Dataset:
    if criterion is None:
        return dataset
    kept = [one for one in dataset.examples if one.criterion == criterion]
    skipped.count("of another criterion", len(dataset.examples) - len(kept))
    return datasets.Dataset(kept)


def _phase(kind: models.ModelKind, criterion: str | None) -> str:
    name = f"{kind.value.replace('_', ' ')} model"
    return name if criterion is None else f"{name} of {criterion or 'no criterion'}"


def _batches(examples: int, settings: recipes.RewardSettings, seed: int) -> Iterator[list[int]]:
    """Numbers of items: each epoch all of them, in an order of its own."""
    for epoch in range(settings.epochs):
        order = list(range(examples))
        random.Random(encoding.seed_of(seed, epoch)).shuffle(order)
        for start in range(0, len(order), settings.batch):
            yield order[start : start + settings.batch]


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
