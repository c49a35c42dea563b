"""A gradient that is no number never reaches a weight; every weight is moved by exactly one optimizer."""

import dataclasses
import itertools
import math

import pytest
import torch

from trimtab.modeling import tiny
from trimtab.trainer import recipes
from trimtab.trainer.steps import optim

torch.set_num_threads(1)
SETTINGS = recipes.RunSettings(lr=0.1, weight_decay=0.1)


def gradient(model: torch.nn.Linear, value: float) -> None:
    model.weight.grad = torch.full_like(model.weight, value)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(bad: float) -> None:
    model = torch.nn.Linear(3, 2, bias=False)
    optimizer = optim.for_model(model, SETTINGS, steps=10)
    gradient(model, 1.0)
    optimizer.step()
    before = model.weight.detach().clone()
    gradient(model, bad)
    optimizer.step()
    assert torch.equal(model.weight, before) and optimizer.skipped == 1
    gradient(model, 1.0)
    optimizer.step()
    assert torch.isfinite(model.weight).all() and not torch.equal(model.weight, before)


def test_a_run_that_keeps_diverging_ends() -> None:
    model = torch.nn.Linear(3, 2, bias=False)
    optimizer = optim.for_model(model, SETTINGS, steps=10)
    for _ in range(4):
        gradient(model, math.nan)
        optimizer.step()
    gradient(model, math.nan)
    with pytest.raises(optim.Diverged, match="5 steps in a row"):
        optimizer.step()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_weight_is_in_one_group_and_token_matrices_are_not_orthogonalised(optimizer: str) -> None:
    model = tiny.tiny_llama(64, seed=0, hidden=16, layers=1, heads=2, intermediate=24)
    groups = optim.groups_of(model, dataclasses.replace(SETTINGS, optimizer=optimizer))
    moved = [id(weight) for one in groups for group in one.param_groups for weight in group["params"]]
    assert sorted(moved) == sorted(id(weight) for weight in model.parameters())
    for one in groups:
        if isinstance(one, torch.optim.Muon):
            assert len(one.param_groups[0]["params"]) == 7
            assert all(weight is not model.get_input_embeddings().weight for weight in one.param_groups[0]["params"])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_learning_rates_rise_then_fall_and_no_step_is_wasted(schedule: str) -> None:
    settings = dataclasses.replace(SETTINGS, schedule=schedule, warmup_steps=4)
    shares = [optim.learning_rate_share(settings, step, 40) for step in range(40)]
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(earlier > later > 0 for earlier, later in itertools.pairwise(shares[4:]))


def test_a_short_run_is_not_all_warm_up() -> None:
    settings = dataclasses.replace(SETTINGS, warmup_steps=1000)
    assert max(optim.learning_rate_share(settings, step, 8) for step in range(8)) == 1.0
