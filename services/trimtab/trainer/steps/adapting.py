"""Adapters as a run's settings ask for them (`modeling.lora`). For the builder, critics and reward models."""

from typing import Any

from trimtab.modeling import lora
from trimtab.trainer import recipes


def attach(model: Any, settings: recipes.RunSettings, seed: int) -> None:
    """Puts adapters into a model whose weights the run would train; nothing where it trains the weights themselves."""
    if not settings.lora_rank:
        return
    targets = tuple(one.strip() for one in settings.lora_targets.split(",") if one.strip())
    lora.attach(model, lora.Adapter(settings.lora_rank, settings.lora_alpha, settings.lora_dropout, targets), seed)
