"""Forward and backward passes in bfloat16, with weights, sums and losses in fp32. Called by the trainer.

Micikevicius et al. 2018 (arXiv:1710.03740), by torch's autocast: matrix products and attention round their operands to
bfloat16 and add up in fp32; norms, the residual stream, log-probabilities, heads of reward models, gradients of weights
and the optimizer stay in fp32. Linear layers that do not move are held in bfloat16. On a CPU with avx512_bf16 a product
takes half the time.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from trimtab.modeling import packing

_FORWARD = "_forward_in_fp32"


def lower(model: Any) -> None:
    """The body and the output matrix of a model compute in bfloat16 from now on, in place."""
    body = model.base_model
    packing.packs(body, 1)  # tried once and remembered: its comparison is one of fp32
    for layer in body.modules():
        if isinstance(layer, nn.Linear) and not layer.weight.requires_grad:
            layer.to(torch.bfloat16)
    _replace(body, _autocast(body.forward, model.device.type))
    head = model.get_output_embeddings()
    if head is not None:
        moves = head.weight.requires_grad
        _replace(head, _autocast(head.forward, model.device.type) if moves else _held(head))


def is_lowered(model: Any) -> bool:
    """Whether `lower` was called on it."""
    return any(hasattr(module, _FORWARD) for module in model.modules())


def restore(model: Any) -> None:
    """All in fp32 again; nothing where it was not lowered. What was rounded stays so: it is what was trained."""
    lowered = [module for module in model.modules() if hasattr(module, _FORWARD)]
    for module in lowered:
        module.forward = getattr(module, _FORWARD)
        delattr(module, _FORWARD)
    if lowered:
        model.float()


def _replace(module: nn.Module, forward: Callable[..., Any]) -> None:
    setattr(module, _FORWARD, module.forward)
    module.forward = forward


def _held(head: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    """The head's forward with a copy of its weight, which may be that of the embeddings too: those stay in fp32."""
    weight = head.weight.to(torch.bfloat16)
    bias = None if head.bias is None else head.bias.to(torch.bfloat16)
    return lambda hidden: functional.linear(hidden.to(torch.bfloat16), weight, bias)


def _autocast(forward: Any, device: str) -> Any:
    @functools.wraps(forward)
    def in_bfloat16(*args: Any, **kwargs: Any) -> Any:
        # each weight is used once in a forward pass: nothing to keep
        with torch.autocast(device, dtype=torch.bfloat16, cache_enabled=False):
            return forward(*args, **kwargs)

    return in_bfloat16
