"""Optimizers, their learning rates over a run, and the one step that every method takes.

The step is where a NaN stops: a gradient that is not finite changes no weight and is counted, and a run that keeps
producing them ends. Shared by `trainer.methods` and `trainer.reward.fitting`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from trimtab.core import errors
from trimtab.trainer import recipes
from trimtab.trainer.steps import ranks

_NON_FINITE_IN_A_ROW = 5


class Diverged(errors.WrongState):
    """Training produced gradients that are no numbers, several times in a row."""


class Optimizer:
    """Moves the weights it was given; `steps` is the number of calls of `step` that the run will make."""

    def __init__(
        self,
        settings: recipes.RunSettings,
        steps: int,
        groups: "Sequence[torch.optim.Optimizer]",
        among: ranks.Ranks = ranks.ALONE,
    ) -> None:
        self._settings = settings
        self._among = among
        self._steps = steps
        self._optimizers = groups
        self._highest = [[group["lr"] for group in one.param_groups] for one in groups]
        self._taken = 0
        self._in_a_row = 0
        self.skipped = 0

    def zero_grad(self) -> None:
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    def step(self) -> float:
        """Takes the gradients' step; returns their norm before clipping. Diverged after several that are not finite."""
        share = learning_rate_share(self._settings, self._taken, self._steps)
        self._taken += 1
        weights = [weight for one in self._optimizers for weight in _weights(one)]
        self._among.add_up_gradients(weights)
        norm = self._among.clip(weights, self._settings.max_grad_norm)
        if not math.isfinite(norm):
            self.skipped += 1
            self._in_a_row += 1
            if self._in_a_row == _NON_FINITE_IN_A_ROW:
                raise Diverged(
                    f"The gradient was not finite {_NON_FINITE_IN_A_ROW} steps in a row; lower `lr`, look at the data."
                )
            return norm
        self._in_a_row = 0
        for optimizer, highest in zip(self._optimizers, self._highest, strict=True):
            for group, lr in zip(optimizer.param_groups, highest, strict=True):
                group["lr"] = lr * share
            optimizer.step()
        return norm

    def tensors(self) -> dict[str, torch.Tensor]:
        """What the torch optimizers have gathered, by "optimizer/weight/name"; nothing before the first step."""
        return {
            f"{number}/{weight}/{name}": tensor
            for number, one in enumerate(self._optimizers)
            for weight, state in one.state_dict()["state"].items()
            for name, tensor in state.items()
        }

    def counters(self) -> dict[str, int]:
        """What else a step depends on. With `tensors` it is all the state there is."""
        return {"taken": self._taken, "in_a_row": self._in_a_row, "skipped": self.skipped}

    def put_back(self, tensors: Mapping[str, torch.Tensor], counters: Mapping[str, int]) -> None:
        """Goes on from what `tensors` and `counters` said."""
        states: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in self._optimizers]
        weights = [_weights(one) for one in self._optimizers]
        for name, tensor in tensors.items():
            number, weight, key = name.split("/")
            laid = self._among.laid_like(tensor, weights[int(number)][int(weight)])
            states[int(number)].setdefault(int(weight), {})[key] = laid
        for one, state in zip(self._optimizers, states, strict=True):
            # learning rates are set at every step, everything else in the groups by the settings
            one.load_state_dict({"state": state, "param_groups": one.state_dict()["param_groups"]})
        self._taken, self._in_a_row, self.skipped = counters["taken"], counters["in_a_row"], counters["skipped"]


def _weights(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """In the order that its state is numbered in."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def learning_rate_share(settings: recipes.RunSettings, taken: int, steps: int) -> float:
    """What part of the highest learning rate step number `taken` (from 0) of `steps` uses; above 0 at every step."""
    warmup = min(settings.warmup_steps, steps // 4)
    if taken < warmup:
        return (taken + 1) / (warmup + 1)
    progress = (taken - warmup) / max(1, steps - warmup)
    if settings.schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def for_model(
    model: nn.Module,
    settings: recipes.RunSettings,
    steps: int,
    *,
    lr: float | None = None,
    among: ranks.Ranks = ranks.ALONE,
) -> Optimizer:
    """An optimizer of all weights of one model. lr: in place of the settings' (a critic's)."""
    return Optimizer(settings, steps, groups_of(model, settings, lr), among)


def combined(settings: recipes.RunSettings, steps: int, groups: Sequence[torch.optim.Optimizer]) -> Optimizer:
    return Optimizer(settings, steps, groups)


def groups_of(model: nn.Module, settings: recipes.RunSettings, lr: float | None = None) -> list[torch.optim.Optimizer]:
    """Torch optimizers over a model's weights, each weight in exactly one (tied ones once)."""
    ends = _end_weights(model)
    matrices = [w for w in model.parameters() if w.requires_grad and w.ndim == 2 and id(w) not in ends]
    others = [w for w in model.parameters() if w.requires_grad and not any(w is matrix for matrix in matrices)]
    high = settings.lr if lr is None else lr
    decay = settings.weight_decay
    if settings.optimizer == "muon":
        return [
            torch.optim.Muon(matrices, lr=settings.matrix_lr, weight_decay=decay),
            torch.optim.AdamW(others, lr=high, weight_decay=0.0, betas=(0.9, 0.95), fused=True),
        ]
    decayed = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return [torch.optim.AdamW(decayed, lr=high, betas=(0.9, 0.95), fused=True)]


def _end_weights(model: nn.Module) -> set[int]:
    """Embeddings and heads: matrices whose rows are tokens or labels, which Muon must not orthogonalise."""
    ends: Iterable[nn.Module | None] = [
        *(module for module in model.modules() if isinstance(module, nn.Embedding)),
        getattr(model, "score", None),
        getattr(model, "lm_head", None),
    ]
    return {id(module.weight) for module in ends if module is not None and hasattr(module, "weight")}
