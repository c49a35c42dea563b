"""The processes that train one model together, as a method sees them; `ALONE` is one process, the ordinary run.

A method asks for its part of a step's batch, for sums over all processes and for tensors that lie whole or in slices;
`trainer.steps.sharded` answers for several processes, and only that module touches `torch.distributed`. Every process
knows the whole batch of a step (it is a function of seed and step), so what a loss is divided by is that of the whole
batch, known without asking anybody.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from trimtab.modeling import logprobs


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A micro-batch: indices into the step's batch. counts: what its loss is multiplied by, 1, or 0 where it is read
    only because another process reads one more: all pass through the model equally often."""

    indices: list[int]
    counts: float = 1.0


class Ranks:
    """One process: everything is whole, and nobody else is asked."""

    rank = 0
    size = 1

    @property
    def is_first(self) -> bool:
        """Of the one process that tells, writes and judges."""
        return self.rank == 0

    def shard(self, model: Any) -> Any:
        """The model to train in place of this one: itself here, else one that lies in slices."""
        return model

    def gather(self, trained: Any, model: Any) -> None:
        """Puts what `shard` gave, and what was trained, into the whole model again."""

    def parts(self, lengths: Sequence[int], positions: int) -> list[Part]:
        """What this process reads of a step, in micro-batches of similar length (`logprobs.batches_by_length`)."""
        return [Part(indices) for indices in logprobs.batches_by_length(lengths, positions)]

    def total(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Each figure summed over all processes."""
        return dict(figures)

    def add_up(self, tensor: torch.Tensor) -> torch.Tensor:
        """A whole tensor summed over all processes, in place."""
        return tensor

    def add_up_gradients(self, weights: Sequence[torch.Tensor]) -> None:
        """Gradients of weights that lie whole in every process; those in slices are summed where they arise."""

    def clip(self, weights: Sequence[torch.Tensor], largest: float) -> float:
        """Shortens the gradient of all weights together to this norm; the norm before."""
        return nn.utils.clip_grad_norm_(weights, largest).item()

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor with all its slices."""
        return tensor

    def laid_like(self, tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """A whole tensor, the same in every process, laid as another of its shape is: in slices or whole."""
        return tensor

    def each(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """A tensor as every process has it, in the order of their ranks."""
        return [tensor]

    def first_says(self, flag: bool) -> bool:
        """What the first process says of something that only one can know."""
        return flag

    def leave(self) -> None:
        """Parts from the others: what is left to do is done alone."""


ALONE = Ranks()
