"""Adapters and precision as a run's settings ask for them. For the builder, critics and reward models."""

from typing import Any

from trimtab.modeling import lora, precision
from trimtab.trainer import recipes


def prepare(model: Any, settings: recipes.RunSettings, seed: int) -> None:
    """Makes a model ready that the run trains: its adapters (`modeling.lora`), its precision (`modeling.precision`)."""
    if settings.lora_rank:
        targets = tuple(one.strip() for one in settings.lora_targets.split(",") if one.strip())
        lora.attach(model, lora.Adapter(settings.lora_rank, settings.lora_alpha, settings.lora_dropout, targets), seed)
    lower(model, settings)


def lower(model: Any, settings: recipes.RunSettings) -> None:
    """Only its precision: a reference rounds as the policy does, else they would differ at the start."""
    if settings.precision == "bfloat16":
        precision.lower(model)


def finish(model: Any) -> None:
    """An ordinary model in fp32 again, adapters merged."""
    precision.restore(model)
    lora.merge(model)
