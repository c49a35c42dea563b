"""One run of Trimtab's own trainers: `python -m tests.benchmarks.training.ours METHOD FOLDER` tells its figures."""

import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from tests.benchmarks.training import clock, plan

from trimtab.modeling import loading, lora, rewards
from trimtab.trainer import job, recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.methods import dpo, kto, learner, on_policy, sft
from trimtab.trainer.reward import fitting, material
from trimtab.trainer.steps import adapting, checkpoints, progress


class TimedProgress(progress.Progress):
    """A job's own progress, checkpoints included, that tells the clock of every step of the last phase."""

    def __init__(self, folder: pathlib.Path, timed: clock.Clock) -> None:
        super().__init__(folder, checkpoints.Checkpoints(folder, b"benchmark", {}))
        self._timed = timed

    def begin(self, phase: str, steps: int, carried: checkpoints.Carried | None = None) -> int:
        self._timed.phase()
        return super().begin(phase, steps, carried)

    def step(self, figures: dict[str, float]) -> None:
        super().step(figures)
        self._timed.step()


@dataclasses.dataclass(frozen=True, slots=True)
class Bench:
    folder: pathlib.Path
    planned: plan.Plan
    policy: loading.LoadedPolicy
    dataset: datasets.Dataset
    report: progress.Progress
    timed: clock.Clock

    def of(self, kind: datasets.Kind) -> datasets.Dataset:
        return datasets.Dataset(self.dataset.of("train", kind))

    def prepare(self, settings: recipes.RunSettings) -> None:
        adapting.prepare(self.policy.model, settings, seed=1)

    def reference(self) -> loading.LoadedPolicy:
        if self.adapted:
            return dataclasses.replace(self.policy, model=lora.Unadapted(self.policy.model))
        return loading.load_policy(self.folder / "policy")

    @property
    def adapted(self) -> bool:
        return plan.size_of(self.folder) == plan.PRETRAINED

    @property
    def common(self) -> dict[str, Any]:
        return {
            "optimizer": "adamw",
            "lr": plan.LR,
            "schedule": "linear",
            "warmup_steps": 0,
            "weight_decay": 0.0,
            "max_grad_norm": plan.CLIP,
            **({"precision": "bfloat16", "lora_rank": plan.RANK, "lora_alpha": plan.RANK} if self.adapted else {}),
        }

    @property
    def by_passes(self) -> dict[str, Any]:
        passes = self.planned.warm_up + self.planned.measured
        return {**self.common, "epochs": passes, "batch": self.planned.batch}

    @property
    def on_policy(self) -> dict[str, Any]:
        return {
            **self.common,
            "iterations": self.planned.warm_up + self.planned.measured,
            "prompts": self.planned.batch // plan.SAMPLES,
            "samples": plan.SAMPLES,
            "max_tokens": plan.MAX_TOKENS,
            "minibatches": 1,
            "beta": plan.BETA,
            "demonstration_weight": 0.0,
        }


def main(method: str, folder: pathlib.Path) -> None:
    job.make_deterministic(plan.THREADS, seed=1)
    timed = clock.Clock()
    planned = plan.of(plan.size_of(folder), method)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(
            folder=folder,
            planned=planned,
            policy=loading.load_policy(folder / "policy"),
            dataset=datasets.read(folder / "dataset"),
            report=TimedProgress(pathlib.Path(scratch), timed),
            timed=timed,
        )
        rows = RUNS[method](bench)
    print(timed.told(planned.warm_up * planned.steps_of_a_pass(rows)))  # noqa: T201  # what the harness reads


def _sft(bench: Bench) -> int:
    rows = bench.of("demonstration")
    settings = recipes.SFTSettings(**bench.by_passes)
    bench.prepare(settings)
    bench.timed.begin()
    sft.train(bench.policy, rows, settings, 1, bench.report)
    return len(rows.examples)


def _reward(bench: Bench) -> int:
    settings = recipes.RewardSettings(**bench.by_passes)
    pairs = bench.of("pair").examples
    feedback = material.prepare(encoding.encoder_of(bench.policy), pairs, settings, encoding.Skipped())
    bench.timed.begin()
    fitting.fit(bench.policy, feedback, settings, seed=1, report=bench.report)
    return len(feedback)


def _direct(
    train: Callable[..., Any], settings_of: Callable[..., recipes.PolicySettings], kind: datasets.Kind
) -> Callable[[Bench], int]:
    def run(bench: Bench) -> int:
        rows, settings = bench.of(kind), settings_of(**bench.by_passes)
        bench.prepare(settings)
        bench.timed.begin()
        train(bench.policy, bench.reference, rows, settings=settings, seed=1, report=bench.report)
        return len(rows.examples)

    return run


def _on_policy(settings_of: Callable[[Bench], recipes.OnPolicySettings]) -> Callable[[Bench], int]:
    def run(bench: Bench) -> int:
        settings = settings_of(bench)
        bench.prepare(settings)
        models = learner.Models(bench.policy, bench.reference(), rewards.load_reward_model(bench.folder / "reward"))
        bench.timed.begin()
        rows = bench.of("demonstration")
        on_policy.train(models, rows, settings=settings, seed=1, report=bench.report)
        return bench.planned.batch

    return run


RUNS: dict[str, Callable[[Bench], int]] = {
    "sft": _sft,
    "reward": _reward,
    "dpo": _direct(dpo.train, recipes.DPOSettings, "pair"),
    "kto": _direct(kto.train, recipes.KTOSettings, "thumb"),
    "ppo": _on_policy(
        lambda bench: recipes.PPOSettings(
            **bench.on_policy, critic_lr=plan.LR, epochs=plan.PPO_EPOCHS, value_clip=0.2, missing_eos=-1.0
        )
    ),
    "rloo": _on_policy(lambda bench: recipes.RLOOSettings(**bench.on_policy)),
    "grpo": _on_policy(lambda bench: recipes.GRPOSettings(**bench.on_policy)),
}


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
