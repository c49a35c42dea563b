"""One run of Trimtab's own trainers: `python -m tests.benchmarks.training.ours METHOD FOLDER` tells its figures."""

import pathlib
import sys
import tempfile
from typing import Any

import torch
from tests.benchmarks.training import clock, plan

from trimtab.modeling import loading, rewards
from trimtab.trainer import job, recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.methods import ppo, sft
from trimtab.trainer.reward import fitting, material
from trimtab.trainer.steps import checkpoints, progress


class TimedProgress(progress.Progress):
    """A job's own progress, checkpoints included, that tells the clock of every step."""

    def __init__(self, folder: pathlib.Path, timed: clock.Clock) -> None:
        super().__init__(folder, checkpoints.Checkpoints(folder, b"benchmark", {}))
        self._timed = timed

    def step(self, figures: dict[str, float]) -> None:
        super().step(figures)
        self._timed.step()


def main(method: str, folder: pathlib.Path) -> None:
    job.make_deterministic(plan.THREADS, seed=1)
    timed = clock.Clock()
    planned = plan.PLANS[method]
    policy = loading.load_policy(folder / "policy")
    dataset = datasets.read(folder / "dataset")
    with tempfile.TemporaryDirectory() as scratch:
        report = TimedProgress(pathlib.Path(scratch), timed)
        steps = RUNS[method](policy, dataset, folder, planned, report, timed)
    print(timed.told(planned.warm_up * steps))  # noqa: T201  # what the harness reads


def _common(planned: plan.Plan) -> dict[str, Any]:
    return {"optimizer": "adamw", "lr": plan.LR, "schedule": "linear", "warmup_steps": 0, "weight_decay": 0.0,
            "max_grad_norm": plan.CLIP, "epochs": planned.warm_up + planned.measured, "batch": planned.batch}  # fmt: skip


def _sft(
    policy: loading.LoadedPolicy, dataset: datasets.Dataset, folder: pathlib.Path, planned: plan.Plan,
    report: progress.Progress, timed: clock.Clock,
) -> int:  # fmt: skip
    rows = datasets.Dataset(dataset.of("train", "demonstration"))
    timed.begin()
    sft.train(policy, rows, recipes.SFTSettings(**_common(planned)), 1, report)
    return -(-len(rows.examples) // planned.batch)


def _reward(
    policy: loading.LoadedPolicy, dataset: datasets.Dataset, folder: pathlib.Path, planned: plan.Plan,
    report: progress.Progress, timed: clock.Clock,
) -> int:  # fmt: skip
    settings = recipes.RewardSettings(**_common(planned))
    pairs = dataset.of("train", "pair")
    feedback = material.prepare(encoding.encoder_of(policy), pairs, settings, encoding.Skipped())
    timed.begin()
    fitting.fit(policy, feedback, settings, seed=1, report=report)
    return -(-len(feedback) // planned.batch)


def _ppo(
    policy: loading.LoadedPolicy, dataset: datasets.Dataset, folder: pathlib.Path, planned: plan.Plan,
    report: progress.Progress, timed: clock.Clock,
) -> int:  # fmt: skip
    settings = recipes.PPOSettings(
        lr=plan.LR, critic_lr=plan.LR, iterations=planned.warm_up + planned.measured, minibatches=1,
        prompts=planned.batch // plan.SAMPLES, samples=plan.SAMPLES, max_tokens=plan.MAX_TOKENS,
        epochs=plan.PPO_EPOCHS, beta=plan.BETA, value_clip=0.2, demonstration_weight=0.0,
    )  # fmt: skip
    reference = loading.load_policy(folder / "policy")
    reward = rewards.load_reward_model(folder / "reward")
    timed.begin()
    ppo.train(policy, reference, reward, dataset, settings=settings, seed=1, report=report)
    return 1


RUNS = {"sft": _sft, "reward": _reward, "ppo": _ppo}


if __name__ == "__main__":
    torch.set_num_threads(plan.THREADS)
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
