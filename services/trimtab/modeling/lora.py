"""Low-rank adapters through peft: Hu et al. 2021 (arXiv:2106.09685). Called by the trainer.

W x + (alpha / rank) B A x, with W frozen, A (rank x in) random and B (out x rank) zero at the start, so that an adapted
model begins as it was. Adapters are put into the model in place: it stays the class it is, and everything that reads
it (sampling, log-probabilities, heads) reads the adapted one. At the end they are merged into the weights: what is
saved is an ordinary model.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from trimtab.core import errors


@dataclasses.dataclass(frozen=True, slots=True)
class Adapter:
    """targets: endings of names of linear layers of the body, as in "q_proj"; none: all of them."""

    rank: int
    alpha: int
    dropout: float = 0.0
    targets: tuple[str, ...] = ()


def attach(model: Any, adapter: Adapter, seed: int) -> None:
    """Puts adapters into the body and freezes all else of it; a reward model's head is trained as it is.

    InvalidField names a target that the body does not have.
    """
    import peft  # one to two seconds

    body = model.base_model
    linear = [name for name, one in body.named_modules() if isinstance(one, nn.Linear)]
    for target in adapter.targets:
        if not any(_ends(name, target) for name in linear):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise errors.InvalidField("settings_json.lora_targets", f"names {target}", f"use some of {known}")
    chosen = [name for name in linear if not adapter.targets or any(_ends(name, one) for one in adapter.targets)]
    config = peft.LoraConfig(
        r=adapter.rank, lora_alpha=adapter.alpha, lora_dropout=adapter.dropout, target_modules=chosen
    )
    head = getattr(model, "score", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, body)
    for name, weight in model.named_parameters():
        weight.requires_grad_("lora_" in name)
    if head is not None:
        head.requires_grad_(True)


def merge(model: Any) -> None:
    """Adds the adapters to the weights and takes them out; nothing where there are none. All weights move again."""
    layers = list(_adapted(model))
    for name, layer in layers:
        layer.merge(safe_merge=True)
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, layer.get_base_layer())
    if layers:
        model.requires_grad_(True)


@contextlib.contextmanager
def without(model: Any) -> Iterator[None]:
    """The model as it was before it was adapted, for as long as the context lasts."""
    layers = [layer for _, layer in _adapted(model)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def plain_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The state as it was before adapters were put in, under its own names."""
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in module.state_dict().items()
        if ".lora_" not in name
    }


class Unadapted:
    """An adapted model read as it was: a reference that takes no memory of its own. For forward passes alone."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.base_model = _UnadaptedBody(model)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _UnadaptedBody:
    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model.base_model, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad(), without(self._model):
            return self._model.base_model(*args, **kwargs)


def _adapted(model: Any) -> Iterator[tuple[str, Any]]:
    from peft.tuners import tuners_utils

    for name, layer in list(model.named_modules()):
        if isinstance(layer, tuners_utils.BaseTunerLayer):
            yield name, layer


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
