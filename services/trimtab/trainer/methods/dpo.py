"""Direct preference optimisation: the policy learns from pairs without a reward model. Dispatched by `trainer.job`.

Rafailov et al. 2023, with the losses of `steps.direct_losses`. A step's loss is

    sum_i w_i (loss(m_i) + a NLL_i) / sum_i w_i

over all pairs of the step, so that micro-batches, padding and order do not matter. w: the example's weight; m: the
log-ratio of the chosen answer less that of the rejected one; NLL: -log pi(chosen) per token of it (Pang et al. 2024,
"Iterative reasoning preference optimization"), a = `sft_weight`. The policy stays in evaluation mode: with dropout it
would differ from the reference before the first step.

A pair says which answer is better, and so does an edit: its correction. A tie does not, and is left out: Bradley-Terry
has no place for it, and pulling both answers to equal rewards would say more than its rater did.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import torch

from trimtab.core import errors
from trimtab.modeling import answers, loading, logprobs
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding, packing
from trimtab.trainer.methods import references
from trimtab.trainer.steps import checkpoints, direct_losses, optim, progress, ranks

# The kinds that say which of two answers is better.
COMPARING: tuple[datasets.Kind, ...] = ("pair", "edit")


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """group: the chosen answer, then the rejected one."""

    group: references.Group
    weight: float


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """A pair with what the reference gave to its two answers, in nats: reference_K, float64."""

    pair: Pair
    reference_K: torch.Tensor


def train(
    policy: loading.LoadedPolicy,
    load_reference: references.Loader,
    dataset: datasets.Dataset,
    *,
    settings: recipes.DPOSettings,
    seed: int,
    report: progress.Progress,
    among: ranks.Ranks = ranks.ALONE,
) -> dict[str, float]:
    """Trains the policy's weights in place; the run's figures. InvalidField when there is no pair to learn from."""
    skipped = encoding.Skipped()
    train_set = prepare(policy, dataset.of("train", *COMPARING), skipped)
    held_out = prepare(policy, dataset.of("held_out", *COMPARING), skipped)
    if not train_set:
        raise errors.InvalidField(
            "dataset_id",
            "holds no pair that can be trained on",
            "choose a data set with comparisons that are no ties, or with edits",
        )
    both = [*train_set, *held_out]
    given = references.remembered(load_reference, policy, [pair.group for pair in both], report, among=among)
    judged = [Judged(pair, reference_K) for pair, reference_K in zip(both, given, strict=True)]
    train_judged, held_out_judged = judged[: len(train_set)], judged[len(train_set) :]
    steps = packing.steps_of(len(train_set), settings.epochs, settings.batch)
    trained = dataclasses.replace(policy, model=among.shard(policy.model))
    optimizer = optim.for_model(trained.model, settings, steps, among=among)
    carried = checkpoints.Carried({"policy": trained.model}, {"policy": optimizer})
    done = report.begin("direct preference optimisation", steps, carried)
    order = packing.batches(train_judged, settings.epochs, settings.batch, "dpo", seed)
    for batch in itertools.islice(order, done, None):
        figures = accumulate(trained, batch, settings, among=among)
        figures["gradient_norm"] = optimizer.step()
        optimizer.zero_grad()
        report.step(figures)
    among.gather(trained.model, policy.model)
    books = {"pairs": float(len(train_set)), "steps_skipped": float(optimizer.skipped)}
    if held_out:
        books |= {f"held_out_{name}": value for name, value in measure(policy, held_out_judged, settings).items()}
    return {**report.figures, **books, **skipped.figures()}


def prepare(
    policy: loading.LoadedPolicy, examples: Sequence[datasets.DatasetExample], skipped: encoding.Skipped
) -> list[Pair]:
    """What can be learned from, in order; everything else is counted with its reason."""
    encoder = encoding.encoder_of(policy)
    seen: set[tuple[str, references.Group]] = set()
    kept = []
    for example in examples:
        group = _group(encoder, example)
        if not isinstance(group, str) and (example.rater, group) in seen:
            group = "duplicate: its rater said the same of the same answers"
        if isinstance(group, str):
            skipped.count(group)
        else:
            seen.add((example.rater, group))
            kept.append(Pair(group, example.weight))
    return kept


def _group(encoder: answers.AnswerEncoder, example: datasets.DatasetExample) -> references.Group | str:
    """The tokens of a pair, or why it cannot be used."""
    if problem := encoding.unusable(example):
        return problem
    if example.tie:
        return "tie: it says of no answer that it is better"
    messages = encoding.messages_of(example.prompt)
    chosen, rejected = (encoder.encode(messages, said) for said in (example.chosen, example.rejected))
    if isinstance(chosen, str):
        return chosen
    if isinstance(rejected, str):
        return rejected
    if chosen.response == rejected.response:
        return "identical answers"
    return references.Group(chosen.prompt, (chosen.response, rejected.response))


def accumulate(
    policy: loading.LoadedPolicy,
    batch: Sequence[Judged],
    settings: recipes.DPOSettings,
    *,
    among: ranks.Ranks = ranks.ALONE,
) -> dict[str, float]:
    """Adds the gradient of the step's loss to the weights' gradients; the step's figures."""
    totals = _Totals()
    weight = sum(one.pair.weight for one in batch)
    positions = logprobs.micro_batch_positions(policy.model, settings.micro_batch_positions)
    for part in among.parts([one.pair.group.positions for one in batch], positions):
        terms = _terms(policy, [batch[i] for i in part.indices], settings)
        (part.counts * (terms.weights_P * terms.loss_P).sum() / weight).backward()  # type: ignore[no-untyped-call]
        if part.counts:
            totals.add(terms)
    return totals.figures(settings, among)


@torch.no_grad()
def measure(policy: loading.LoadedPolicy, judged: Sequence[Judged], settings: recipes.DPOSettings) -> dict[str, float]:
    """The figures of pairs that are not learned from."""
    totals = _Totals()
    positions = logprobs.micro_batch_positions(policy.model, settings.micro_batch_positions)
    for indices in references.micro_batches([one.pair.group for one in judged], positions):
        totals.add(_terms(policy, [judged[i] for i in indices], settings))
    return totals.figures(settings)


@dataclasses.dataclass(frozen=True, slots=True)
class _Terms:
    """Of each pair: its loss, its weight, and the log-ratios of its two answers in nats, detached."""

    loss_P: torch.Tensor
    weights_P: torch.Tensor
    chosen_P: torch.Tensor
    rejected_P: torch.Tensor


def _terms(policy: loading.LoadedPolicy, part: Sequence[Judged], settings: recipes.DPOSettings) -> _Terms:
    groups = [one.pair.group for one in part]
    sums_P_2 = references.sums(policy.model, groups).view(-1, 2)
    ratios_P_2 = sums_P_2 - torch.stack([one.reference_K for one in part]).to(sums_P_2)
    lengths_P_2 = sums_P_2.new_tensor([[len(answer) for answer in group.answers] for group in groups])
    loss_P = loss(ratios_P_2, lengths_P_2, settings)
    if settings.sft_weight:
        loss_P = loss_P - settings.sft_weight * sums_P_2[:, 0] / lengths_P_2[:, 0]
    weights_P = sums_P_2.new_tensor([one.pair.weight for one in part])
    return _Terms(loss_P, weights_P, ratios_P_2[:, 0].detach(), ratios_P_2[:, 1].detach())


def loss(ratios_P_2: torch.Tensor, lengths_P_2: torch.Tensor, settings: recipes.DPOSettings) -> torch.Tensor:
    """The preference term of each pair, by the settings. ratios: log-ratios of chosen and rejected, in nats."""
    if settings.loss == "ipo_per_token":
        ratios_P_2 = ratios_P_2 / lengths_P_2
    margins_P = ratios_P_2[:, 0] - ratios_P_2[:, 1]
    match settings.loss:
        case "sigmoid":
            return direct_losses.dpo_loss(margins_P, settings.beta, settings.label_smoothing)
        case "robust":
            return direct_losses.robust_dpo_loss(margins_P, settings.beta, settings.label_smoothing)
        case "hinge":
            return direct_losses.hinge_loss(margins_P, settings.beta)
    return direct_losses.ipo_loss(margins_P, settings.beta)


class _Totals:
    """Weighted means over the pairs of a step or a split, however it was cut."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = dict.fromkeys(("loss", "accuracy", "chosen", "rejected"), 0.0)
        self._weight = 0.0

    def add(self, terms: _Terms) -> None:
        margins_P = terms.chosen_P - terms.rejected_P
        # of equal ones half are right
        right_P = (margins_P.sign() + 1.0) / 2.0
        means = {"loss": terms.loss_P, "accuracy": right_P, "chosen": terms.chosen_P, "rejected": terms.rejected_P}
        for name, values_P in means.items():
            self._sums[name] += (terms.weights_P * values_P).sum().item()
        self._weight += terms.weights_P.sum().item()

    def figures(self, settings: recipes.DPOSettings, among: ranks.Ranks = ranks.ALONE) -> dict[str, float]:
        """reward: beta times a log-ratio. A falling log-ratio of the chosen answers is common, and worth watching."""
        whole = among.total({**self._sums, "weight": self._weight})
        mean = {name: whole[name] / whole["weight"] for name in self._sums}
        return {
            "loss": mean["loss"],
            "accuracy": mean["accuracy"],
            "reward_margin": settings.beta * (mean["chosen"] - mean["rejected"]),
            "reward_chosen": settings.beta * mean["chosen"],
            "reward_rejected": settings.beta * mean["rejected"],
            "log_ratio_chosen_nats": mean["chosen"],
            "log_ratio_rejected_nats": mean["rejected"],
        }
