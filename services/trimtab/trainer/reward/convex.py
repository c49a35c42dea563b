"""Minimises a smooth convex function of a few tensors to the end: what needs no learning rate. Deterministic."""

from collections.abc import Callable, Iterable

import torch


def minimise(parameters: Iterable[torch.Tensor], objective: Callable[[], torch.Tensor], iterations: int = 50) -> None:
    """Moves the parameters that require a gradient, in place: L-BFGS with a strong Wolfe line search."""
    moving = [parameter for parameter in parameters if parameter.requires_grad and parameter.numel()]
    if not moving:
        return
    solver = torch.optim.LBFGS(moving, max_iter=iterations, line_search_fn="strong_wolfe")

    def evaluate() -> torch.Tensor:
        solver.zero_grad()
        value = objective()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(evaluate)  # type: ignore[no-untyped-call]
