"""Runs of eight steps, two epochs of four, of every method that learns from given examples."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.integration.training import making

from trimtab.modeling import loading
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.methods import dpo, kto, pretrain, sft
from trimtab.trainer.reward import fitting, material
from trimtab.trainer.steps import progress

STEPS_OF_AN_EPOCH = 4
_QUICK: Mapping[str, Any] = {"epochs": 2, "batch": 6, "lr": 3e-3}
Rows = Sequence[datasets.DatasetExample]
Figures = dict[str, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Trained:
    """model: with its weights after the last step. figures: what was skipped among them."""

    model: Any
    figures: Figures


Train = Callable[[pathlib.Path, Rows, int, progress.Progress], Trained]


def _sft(parent: pathlib.Path, rows: Rows, seed: int, report: progress.Progress) -> Trained:
    policy = loading.load_policy(parent)
    figures = sft.train(policy, datasets.Dataset(list(rows)), recipes.SFTSettings(**_QUICK), seed, report)
    return Trained(policy.model, figures)


def _pretrain(parent: pathlib.Path, rows: Rows, seed: int, report: progress.Progress) -> Trained:
    policy = loading.load_policy(parent)
    settings = recipes.PretrainSettings(**_QUICK, block_tokens=16)
    return Trained(policy.model, pretrain.train(policy, datasets.Dataset(list(rows)), settings, seed, report))


def _dpo(parent: pathlib.Path, rows: Rows, seed: int, report: progress.Progress) -> Trained:
    policy, dataset = loading.load_policy(parent), datasets.Dataset(list(rows))
    settings = recipes.DPOSettings(**_QUICK)
    figures = dpo.train(
        policy, lambda: loading.load_policy(parent), dataset, settings=settings, seed=seed, report=report
    )
    return Trained(policy.model, figures)


def _kto(parent: pathlib.Path, rows: Rows, seed: int, report: progress.Progress) -> Trained:
    policy, dataset = loading.load_policy(parent), datasets.Dataset(list(rows))
    settings = recipes.KTOSettings(**_QUICK)
    figures = kto.train(
        policy, lambda: loading.load_policy(parent), dataset, settings=settings, seed=seed, report=report
    )
    return Trained(policy.model, figures)


def _reward(parent: pathlib.Path, rows: Rows, seed: int, report: progress.Progress) -> Trained:
    policy, settings, skipped = loading.load_policy(parent), recipes.RewardSettings(**_QUICK), encoding.Skipped()
    feedback = material.prepare(encoding.encoder_of(policy), rows, settings, skipped)
    reward, _ = fitting.fit(policy, feedback, settings, seed=seed, report=report)
    return Trained(reward.model, skipped.figures())


TRAIN: dict[str, Train] = {"sft": _sft, "pretrain": _pretrain, "dpo": _dpo, "kto": _kto, "reward": _reward}
ROWS: dict[str, Rows] = {
    "sft": making.demonstrations(24).of("train"),
    "pretrain": making.texts(30).of("train"),
    "dpo": making.feedback(36, 0).of("train"),
    "kto": making.feedback(0, 36).of("train"),
    "reward": making.feedback(36, 0).of("train"),
}
