"""Kahneman-Tversky optimisation: the policy learns from thumbs, each on its own. Dispatched by `trainer.job`.

Ethayarajh et al. 2024 (arXiv:2402.01306). A step's loss is, over all answers of the step,

    sum_i w_i (lambda_i - v_i) / sum_i w_i

with `steps.direct_losses.kto_loss`, so that micro-batches, padding and order do not matter. w: the example's weight.

The reference point. Paper: z0 = max(0, mean of log pi(y'|x) - log pi_ref(y'|x)) over the step's prompts x, each with an
answer y' to another prompt; no gradient goes through it. From few answers that is noise, and from one there is none. So
here every answer that is learned from has, for the whole run, one mismatched partner drawn from the whole training set
(an answer to another prompt that fits into the context; what the reference gives to it is computed once). In each step
the policy of before the step reads the step's prompts with their partners, and

    z <- d z + (1 - d) sample,   d = (1 - 1 / kl_memory)^(partners in the step),   z0 = max(0, z).

z starts at 0, which is exact, and is part of every checkpoint. The floor comes after the average: a floor under each
sample would lift it. A step may hold answers of one class only, and a single one.

An answer is desirable by a thumb up, undesirable by a thumb down. With `pairs` (as in the paper's section 4.2) a pair
and an edit are taken apart into one of each; a tie says neither. The policy stays in evaluation mode, as in DPO.
"""

import dataclasses
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from trimtab.core import errors
from trimtab.modeling import answers, loading, logprobs
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding, packing
from trimtab.trainer.methods import references
from trimtab.trainer.steps import checkpoints, direct_losses, optim, progress


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """What an answer is worth: the loss's constants of a step. kl_nats: the reference point, z0."""

    kl_nats: float
    beta: float
    desirable_weight: float
    undesirable_weight: float


@dataclasses.dataclass(frozen=True, slots=True)
class Vote:
    """One answer and what was said of it."""

    answer: answers.Answer
    desirable: bool
    weight: float


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """A vote with what the reference gave to its answer and to its mismatched partner, in nats."""

    vote: Vote
    reference: float
    partner: tuple[int, ...] = ()
    partner_reference: float = 0.0

    @property
    def group(self) -> references.Group:
        return references.Group(self.vote.answer.prompt, (self.vote.answer.response,))


def train(
    policy: loading.LoadedPolicy,
    load_reference: references.Loader,
    dataset: datasets.Dataset,
    *,
    settings: recipes.KTOSettings,
    seed: int,
    report: progress.Progress,
) -> dict[str, float]:
    """Trains the policy's weights in place; the run's figures. InvalidField unless both classes of answers occur."""
    skipped = encoding.Skipped()
    kinds: tuple[datasets.Kind, ...] = ("thumb", "pair", "edit") if settings.pairs else ("thumb",)
    train_set = prepare(policy, dataset.of("train", *kinds), skipped)
    held_out = prepare(policy, dataset.of("held_out", *kinds), skipped)
    value = first_value(train_set, settings)
    partners = [*mismatched(policy, train_set, seed), *[()] * len(held_out)]
    both = judged(load_reference, policy, [*train_set, *held_out], partners, report)
    train_judged, held_out_judged = both[: len(train_set)], both[len(train_set) :]
    steps = packing.steps_of(len(train_set), settings.epochs, settings.batch)
    optimizer = optim.for_model(policy.model, settings, steps)
    values: dict[str, Any] = {"kl": 0.0}
    carried = checkpoints.Carried({"policy": policy.model}, {"policy": optimizer}, values)
    positions = logprobs.micro_batch_positions(policy.model, settings.micro_batch_positions)
    done = report.begin("Kahneman-Tversky optimisation", steps, carried)
    order = packing.batches(train_judged, settings.epochs, settings.batch, "kto", seed)
    for batch in itertools.islice(order, done, None):
        values["kl"] = reference_point(policy, batch, values["kl"], settings)
        value = dataclasses.replace(value, kl_nats=max(0.0, values["kl"]))
        figures = accumulate(policy, batch, value, positions)
        norm = optimizer.step()
        optimizer.zero_grad()
        report.step({**figures, "reference_point_nats": value.kl_nats, "gradient_norm": norm})
    books = {
        "answers": float(len(train_set)),
        "desirable": float(sum(vote.desirable for vote in train_set)),
        "weight_of_desirable": value.desirable_weight,
        "weight_of_undesirable": value.undesirable_weight,
        "steps_skipped": float(optimizer.skipped),
    }
    if held_out:
        value = dataclasses.replace(value, kl_nats=max(0.0, values["kl"]))
        told = measure(policy, held_out_judged, value, positions)
        books |= {f"held_out_{name}": figure for name, figure in told.items()}
    return {**report.figures, **books, **skipped.figures()}


def prepare(
    policy: loading.LoadedPolicy, examples: Sequence[datasets.DatasetExample], skipped: encoding.Skipped
) -> list[Vote]:
    """What can be learned from, in order; everything else is counted with its reason."""
    encoder = encoding.encoder_of(policy)
    seen: set[tuple[str, answers.Answer, bool]] = set()
    kept = []
    for example in examples:
        if problem := _unusable(example):
            skipped.count(problem)
            continue
        for said, desirable in _said(example):
            answer = encoder.encode(encoding.messages_of(example.prompt), said)
            if not isinstance(answer, str) and (example.rater, answer, desirable) in seen:
                answer = "duplicate: its rater said the same of the same answer"
            if isinstance(answer, str):
                skipped.count(answer)
            else:
                seen.add((example.rater, answer, desirable))
                kept.append(Vote(answer, desirable, example.weight))
    return kept


def _unusable(example: datasets.DatasetExample) -> str:
    """Why an example says of no answer whether it is good, or nothing."""
    if example.tie:
        return "tie: it says of no answer whether it is good"
    if example.kind != "thumb" and example.chosen == example.rejected:
        return "identical answers"
    return encoding.unusable(example)


def _said(example: datasets.DatasetExample) -> list[tuple[str, bool]]:
    """Each answer of an example and whether it is desirable."""
    if example.kind == "thumb":
        return [(example.response, example.up)]
    return [(example.chosen, True), (example.rejected, False)]


def first_value(votes: Sequence[Vote], settings: recipes.KTOSettings) -> Value:
    """That of the start. To balance, the rarer class's lambda is raised until both classes count the same in all.

    (Ethayarajh et al. 2024, section 4.2, raise it so, too.) InvalidField when a class is empty: of one class alone the
    policy learns to say more, or less, of everything.
    """
    up, down = (sum(vote.weight for vote in votes if vote.desirable is desirable) for desirable in (True, False))
    if not up or not down:
        missing = "desirable" if not up else "undesirable"
        raise errors.InvalidField(
            "dataset_id", f"holds no {missing} answer that can be trained on", "choose one with thumbs up and down"
        )
    raised = (max(1.0, down / up), max(1.0, up / down)) if settings.balance else (1.0, 1.0)
    return Value(
        kl_nats=0.0,
        beta=settings.beta,
        desirable_weight=settings.desirable_weight * raised[0],
        undesirable_weight=settings.undesirable_weight * raised[1],
    )


def mismatched(policy: loading.LoadedPolicy, votes: Sequence[Vote], seed: int) -> list[tuple[int, ...]]:
    """For each vote the tokens of an answer to another prompt, which fit behind its own; () where there is none.

    In an order drawn from the seed it is the next such answer, so that about every answer is used once.
    """
    order = list(range(len(votes)))
    random.Random(encoding.seed_of(seed, "mismatched")).shuffle(order)
    context = loading.context_tokens(policy.model)
    found: list[tuple[int, ...]] = [()] * len(votes)
    for place, i in enumerate(order):
        prompt = votes[i].answer.prompt
        following = (votes[order[(place + step) % len(order)]].answer for step in range(1, len(order)))
        fits = (
            other.response
            for other in following
            if other.prompt != prompt and len(prompt) + len(other.response) <= context
        )
        found[i] = next(fits, ())
    return found


def judged(
    load_reference: references.Loader,
    policy: loading.LoadedPolicy,
    votes: Sequence[Vote],
    partners: Sequence[tuple[int, ...]],
    report: progress.Progress,
) -> list[Judged]:
    """The votes with what the reference gives to their answers and partners."""
    groups = [
        references.Group(vote.answer.prompt, (vote.answer.response, partner) if partner else (vote.answer.response,))
        for vote, partner in zip(votes, partners, strict=True)
    ]
    given = references.remembered(load_reference, policy, groups, report)
    return [
        Judged(vote, given_K[0].item(), partner, given_K[-1].item() if partner else 0.0)
        for vote, partner, given_K in zip(votes, partners, given, strict=True)
    ]


def reference_point(
    policy: loading.LoadedPolicy, batch: Sequence[Judged], before: float, settings: recipes.KTOSettings
) -> float:
    """z after this step's sample. A sample that is not finite changes nothing."""
    paired = [one for one in batch if one.partner]
    if not paired:
        return before
    groups = [references.Group(one.vote.answer.prompt, (one.partner,)) for one in paired]
    given_P = references.all_sums(policy.model, groups)
    sample = math.fsum(given_P.tolist()) - math.fsum(one.partner_reference for one in paired)
    if not math.isfinite(sample):
        return before
    return direct_losses.running_kl(before, sample / len(paired), len(paired), settings.kl_memory)


def accumulate(policy: loading.LoadedPolicy, batch: Sequence[Judged], value: Value, positions: int) -> dict[str, float]:
    """Adds the gradient of the step's loss to the weights' gradients; the step's figures."""
    totals = _Totals(value)
    weight = sum(one.vote.weight for one in batch)
    for terms in _parts(policy, batch, value, positions):
        ((terms.weights_P * terms.loss_P).sum() / weight).backward()  # type: ignore[no-untyped-call]
        totals.add(terms)
    return totals.figures()


@torch.no_grad()
def measure(policy: loading.LoadedPolicy, batch: Sequence[Judged], value: Value, positions: int) -> dict[str, float]:
    """The figures of answers that are not learned from."""
    totals = _Totals(value)
    for terms in _parts(policy, batch, value, positions):
        totals.add(terms)
    return totals.figures()


@dataclasses.dataclass(frozen=True, slots=True)
class _Terms:
    """Of each answer: its loss, its weight, its log-ratio in nats (detached), and its class."""

    loss_P: torch.Tensor
    weights_P: torch.Tensor
    ratios_P: torch.Tensor
    desirable_P: torch.Tensor


def _parts(policy: loading.LoadedPolicy, batch: Sequence[Judged], value: Value, positions: int) -> Iterator[_Terms]:
    for indices in references.micro_batches([one.group for one in batch], positions):
        part = [batch[i] for i in indices]
        sums_P = references.sums(policy.model, [one.group for one in part])
        ratios_P = sums_P - sums_P.new_tensor([one.reference for one in part])
        desirable_P = torch.tensor([one.vote.desirable for one in part], device=sums_P.device)
        loss_P = direct_losses.kto_loss(
            ratios_P,
            desirable_P,
            kl=value.kl_nats,
            beta=value.beta,
            desirable_weight=value.desirable_weight,
            undesirable_weight=value.undesirable_weight,
        )
        weights_P = sums_P.new_tensor([one.vote.weight for one in part])
        yield _Terms(loss_P, weights_P, ratios_P.detach(), desirable_P)


class _Totals:
    """Weighted means over the answers of a step or a split, however it was cut."""

    def __init__(self, value: Value) -> None:
        self._value = value
        self._loss = self._right = 0.0
        # of undesirable and of desirable answers
        self._weights, self._ratios = [0.0, 0.0], [0.0, 0.0]

    def add(self, terms: _Terms) -> None:
        self._loss += (terms.weights_P * terms.loss_P).sum().item()
        # at the reference point half are right
        above_P = ((terms.ratios_P - self._value.kl_nats).sign() + 1.0) / 2.0
        self._right += (terms.weights_P * torch.where(terms.desirable_P, above_P, 1.0 - above_P)).sum().item()
        for desirable in (False, True):
            mine_P = terms.weights_P * (terms.desirable_P == desirable)
            self._weights[desirable] += mine_P.sum().item()
            self._ratios[desirable] += (mine_P * terms.ratios_P).sum().item()

    def figures(self) -> dict[str, float]:
        """accuracy: share on their class's side of the reference point. reward: beta times a log-ratio.

        A class that does not occur has no figure.
        """
        total = sum(self._weights)
        figures = {"loss": self._loss / total, "accuracy": self._right / total}
        for desirable, name in ((True, "desirable"), (False, "undesirable")):
            if self._weights[desirable]:
                ratio = self._ratios[desirable] / self._weights[desirable]
                figures |= {f"reward_{name}": self._value.beta * ratio, f"log_ratio_{name}_nats": ratio}
        return figures
