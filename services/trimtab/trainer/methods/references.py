"""Log-probabilities of whole answers, and what the reference policy gave to them: computed once, before the first step.

The reference is read from its own folder, never from the policy in training, and forgotten again: it takes memory
before the first step only. What it gave is a phase of its own in the run's checkpoints, so that a resumed run takes it
from there, digest-checked and of the same record (so of the same reference and data set), and does not load it.
A group is a prompt with the answers to it that are looked at together: read once, where the model allows it.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from trimtab.core import errors
from trimtab.modeling import loading, logprobs
from trimtab.trainer.steps import checkpoints, progress, ranks

Loader = Callable[[], loading.LoadedPolicy]
# Groups of a step of the phase: how often it tells how far it is.
_GROUPS_A_STEP = 256


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Token ids of a prompt and of answers to it, each with its end-of-sequence token."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]

    @property
    def positions(self) -> int:
        """Input positions, its prompt once."""
        return len(self.prompt) + sum(map(len, self.answers))


def sums(model: Any, groups: Sequence[Group]) -> torch.Tensor:
    """sums_P: log p(answer | prompt) in nats and float64, the answers of all groups in order; one forward pass."""
    flat = [answer for group in groups for answer in group.answers]
    logprobs_N = logprobs.flat_logprobs(model, [group.prompt for group in groups for _ in group.answers], flat)
    owners_N = torch.tensor([i for i, answer in enumerate(flat) for _ in answer], device=logprobs_N.device)
    return logprobs_N.new_zeros(len(flat), dtype=torch.float64).index_add(0, owners_N, logprobs_N.double())


def micro_batches(groups: Sequence[Group], positions: int) -> list[list[int]]:
    """Indices of groups of similar length, in batches whose padded size stays within `positions`."""
    return list(logprobs.batches_by_length([group.positions for group in groups], positions))


@torch.no_grad()
def all_sums(model: Any, groups: Sequence[Group]) -> torch.Tensor:
    """sums_P of any number of groups, without gradients."""
    found: list[torch.Tensor] = [torch.empty(0)] * len(groups)
    for indices in micro_batches(groups, logprobs.FORWARD_POSITIONS):
        part = [groups[i] for i in indices]
        cut = torch.split(sums(model, part), [len(group.answers) for group in part])
        for i, sums_K in zip(indices, cut, strict=True):
            found[i] = sums_K
    return torch.cat(found) if found else torch.empty(0, dtype=torch.float64)


def remembered(
    load: Loader,
    policy: loading.LoadedPolicy,
    groups: Sequence[Group],
    report: progress.Progress,
    *,
    among: ranks.Ranks = ranks.ALONE,
) -> list[torch.Tensor]:
    """sums_K under the reference, a tensor for each group; those that a killed run had computed are not computed again.

    Several processes read a part each, with a whole reference.

    InvalidField when the reference does not read the policy's tokens.
    """
    sizes = [len(group.answers) for group in groups]
    book = _Book(sum(sizes))
    steps = math.ceil(len(groups) / _GROUPS_A_STEP)
    done = report.begin("reference log-probabilities", steps, checkpoints.Carried({"reference": book}, {}))
    if done < steps:
        reference = load()
        _check_tokens(reference, policy)
        for step in range(done, steps):
            first, last = step * _GROUPS_A_STEP, min((step + 1) * _GROUPS_A_STEP, len(groups))
            given = _sums_of_all(reference.model, groups[first:last], among)
            at = sum(sizes[:first])
            book.sums_P[at : at + len(given)] = given.to(book.sums_P.device)
            report.step({"answers": float(at + len(given))})
    return list(torch.split(book.sums_P, sizes))


def _sums_of_all(model: Any, groups: Sequence[Group], among: ranks.Ranks) -> torch.Tensor:
    """`all_sums`, of which each process computes its part."""
    sizes = [len(group.answers) for group in groups]
    mine = range(among.rank, len(groups), among.size)
    given = all_sums(model, [groups[i] for i in mine]).cpu()
    found = list(torch.split(torch.zeros(sum(sizes), dtype=torch.float64), sizes))
    for i, sums_K in zip(mine, torch.split(given, [sizes[i] for i in mine]), strict=True):
        found[i] = sums_K
    return among.add_up(torch.cat(found))


class _Book(nn.Module):
    """As a module, so that checkpoints keep it."""

    sums_P: torch.Tensor

    def __init__(self, answers: int) -> None:
        super().__init__()
        self.register_buffer("sums_P", torch.full((answers,), math.nan, dtype=torch.float64))


def _check_tokens(reference: loading.LoadedPolicy, policy: loading.LoadedPolicy) -> None:
    if reference.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise errors.InvalidField(
            "reference_id", "reads other tokens than the policy", "name a policy with the same tokenizer"
        )
