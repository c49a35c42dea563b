"""Several processes train one model: FSDP2 (`torch.distributed.fsdp.fully_shard`), one slice of everything each.

Zhao et al. 2023 (arXiv:2304.11277). Weights, gradients and optimizer states lie in slices along their first dimension.
A layer's weights are gathered before it computes and dropped after, gradients are summed into the slices (summed, not
averaged: a loss is divided by the whole step's count). Started by `trainer.job` under torchrun; seen by the methods as
`trainer.steps.ranks`.

Every pass is one of all processes, for each layer of it is gathered from all of them. So a process with fewer
micro-batches reads another whose loss counts nothing, and a step's parts follow from its batch alone.
"""

import copy
import datetime
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed import device_mesh, fsdp
from torch.distributed import tensor as dtensors

from trimtab.core import errors
from trimtab.modeling import logprobs, packing, precision
from trimtab.trainer.steps import ranks

# So long a process waits for the others: longer than writing a checkpoint takes, shorter than a person's patience. One
# that is dead on this machine is noticed at once, by torchrun.
TIMEOUT = datetime.timedelta(minutes=15)


def join() -> "Sharded":
    """This process among those that torchrun started; returns when all are there."""
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what its deterministic products ask for
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # what lies whole stays on the CPU, so both are needed there
    distributed.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo", timeout=TIMEOUT)
    return Sharded(torch.device("cuda" if has_gpu else "cpu"))


class Sharded(ranks.Ranks):
    """Processes of the default group. device: where models are trained."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self._device = device
        self._mesh = device_mesh.init_device_mesh(device.type, (self.size,))

    def shard(self, model: Any) -> Any:
        """A copy in slices; the whole model waits in memory for `gather`. InvalidField unless it is a decoder."""
        if not hasattr(model, "score") and model.get_output_embeddings() is None:
            raise errors.InvalidField(
                "parent_id",
                f"is a {type(model).__name__}, no decoder, and only those are split over processes",
                "name another or set --job-processes to 1",
            )
        packing.packs(model.base_model, 1)  # tried once and remembered: its trial is one of a whole model
        sharded = copy.deepcopy(model)
        if precision.is_lowered(model):  # a copy still computes with what it was copied from
            precision.restore(sharded)
            precision.lower(sharded)
        packing.never_read_again(sharded.base_model)
        layers = set(sharded._no_split_modules or ())
        groups = [module for module in sharded.modules() if type(module).__name__ in layers]
        for group in (*groups, sharded):
            fsdp.fully_shard(group, mesh=self._mesh)
            group.set_gradient_divide_factor(1.0)
            group.set_force_sum_reduction_for_comms(True)  # gloo cannot scale what it sums
        _enter_by_body(sharded)
        # draws of dropout: other ones in every process
        torch.manual_seed(torch.initial_seed() + self.rank)
        return sharded

    @torch.no_grad()
    def gather(self, trained: Any, model: Any) -> None:
        for weight, slices in zip(model.parameters(), trained.parameters(), strict=True):
            if weight.requires_grad:
                weight.copy_(self.whole(slices))

    def parts(self, lengths: Sequence[int], positions: int) -> list[ranks.Part]:
        order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        shares = [order[rank :: self.size] for rank in range(self.size)]
        cut = [list(logprobs.batches_by_length([lengths[i] for i in share], positions)) for share in shares]
        mine = [ranks.Part([shares[self.rank][i] for i in batch]) for batch in cut[self.rank]]
        idle = max(map(len, cut)) - len(mine)
        return mine + [ranks.Part([order[-1]], 0.0)] * idle

    def total(self, figures: Mapping[str, float]) -> dict[str, float]:
        summed = self.add_up(torch.tensor(list(figures.values()), dtype=torch.float64))
        return dict(zip(figures, summed.tolist(), strict=True))

    def add_up(self, tensor: torch.Tensor) -> torch.Tensor:
        distributed.all_reduce(tensor)
        return tensor

    def add_up_gradients(self, weights: Sequence[torch.Tensor]) -> None:
        whole = [weight for weight in weights if not isinstance(weight, dtensors.DTensor)]
        if not whole:
            return
        # one that no process has a gradient for keeps none: the optimizer leaves it as it is
        moved = self.add_up(torch.tensor([float(weight.grad is not None) for weight in whole]))
        for weight, is_moved in zip(whole, moved.tolist(), strict=True):
            if is_moved:
                weight.grad = self.add_up(torch.zeros_like(weight) if weight.grad is None else weight.grad)

    def clip(self, weights: Sequence[torch.Tensor], largest: float) -> float:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        # of those in slices the norm is that of all slices
        norms = [
            self.whole(nn.utils.get_total_norm(kind)).to(self._device)
            for kind in (
                [one for one in gradients if isinstance(one, dtensors.DTensor)],
                [one for one in gradients if not isinstance(one, dtensors.DTensor)],
            )
            if kind
        ]
        norm = float(torch.linalg.vector_norm(torch.stack(norms)))
        if norm > largest:  # and not where it is no number
            for one in gradients:
                one.mul_(largest / (norm + 1e-6))  # as `clip_grad_norm_` does
        return norm

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.full_tensor() if isinstance(tensor, dtensors.DTensor) else tensor

    def laid_like(self, tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if not isinstance(other, dtensors.DTensor) or tensor.shape != other.shape:
            return tensor
        # every process has it, so nobody sends anything
        placed = tensor.to(other.device)
        return dtensors.distribute_tensor(placed, other.device_mesh, other.placements, src_data_rank=None)

    def each(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(found, tensor)
        return found

    def first_says(self, flag: bool) -> bool:
        said = torch.tensor([flag], dtype=torch.uint8)
        distributed.broadcast(said, src=0)
        return bool(said.item())

    def leave(self) -> None:
        distributed.destroy_process_group()


def _enter_by_body(model: Any) -> None:
    """FSDP gathers what belongs to no layer (embeddings, head) where a pass enters the whole model. Ours enter its body
    and go on to the head themselves, so the body's forward is made one of the whole model's."""
    body = model.base_model
    model.read_body = body.forward
    fsdp.register_fsdp_forward_method(model, "read_body")
    body.forward = model.read_body
