"""One training run: `python -m trimtab.trainer.job RUN_FOLDER`. A launcher: the methods are in modules of their own.

Reads `started.json`, which is all a run depends on: the same record gives the same bytes of weights on the same kind
of CPU, thread count and library versions. Leaves `progress.json`, `metrics.jsonl` and `checkpoints/` while it works,
`result.json` and `outputs/` at the end (exit 0), or `problem.txt` with a sentence when the run cannot succeed (exit 2).
Anything else is a defect and ends with a traceback. SIGTERM and SIGKILL end it at once: what counts is written last,
and started again in the same folder it goes on from its last checkpoint. The other side of the folder is
`trainer.runs.jobs`.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import shutil
import sys
from importlib import metadata
from typing import TYPE_CHECKING

from trimtab.core import errors, failpoints, files, lines, models, runs
from trimtab.obs import logging
from trimtab.trainer import recipes

if TYPE_CHECKING:
    from trimtab.modeling import loading
    from trimtab.trainer.data import datasets
    from trimtab.trainer.steps import progress

STARTED, RESULT, PROBLEM, OUTPUTS = "started.json", "result.json", "problem.txt", "outputs"
KNOWN_PROBLEM_EXIT = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """What a run depends on. inputs: folders by role (parent, reference, reward, evaluation_reward, dataset)."""

    kind: runs.RunKind
    seed: int
    settings_json: str
    inputs: dict[str, pathlib.Path]
    gates: lines.GateConfig

    def input(self, role: str) -> pathlib.Path:
        """The folder of one input; InvalidField when the run was not given it."""
        if role not in self.inputs:
            raise errors.InvalidField(f"{role}_id", "is missing", f"name the {role.replace('_', ' ')} of this run")
        return self.inputs[role]


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """One model of the run; folder is relative to the run's."""

    folder: str
    kind: models.ModelKind
    method: str
    gates: tuple[models.GateFigure, ...] = ()

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    outputs: tuple[Output, ...]
    figures: dict[str, float]


def main(argv: list[str] | None = None) -> None:
    """Runs the job of a folder; exit code 2 is a problem that a person can solve."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        sys.exit("usage: python -m trimtab.trainer.job RUN_FOLDER")
    folder = pathlib.Path(arguments[0])
    logging.configure("job", "info")
    for stale in (RESULT, PROBLEM):
        (folder / stale).unlink(missing_ok=True)
    shutil.rmtree(folder / OUTPUTS, ignore_errors=True)
    try:
        run(folder)
    except errors.TrimtabError as problem:
        (folder / PROBLEM).write_text(f"{problem}\n")
        sys.exit(KNOWN_PROBLEM_EXIT)


def run(folder: pathlib.Path) -> None:
    """Runs the job to its result. TrimtabError when it cannot succeed."""
    started = read_started(folder)
    settings = recipes.parse(started.kind, started.settings_json)
    # torch is imported only now: a refused record costs nothing
    make_deterministic(settings.threads, started.seed)
    from trimtab.trainer.steps import checkpoints, progress

    known = versions()
    report = progress.Progress(folder, checkpoints.Checkpoints(folder, (folder / STARTED).read_bytes(), known))
    match settings:
        case recipes.SFTSettings():
            result = _sft(started, settings, folder, report)
        case recipes.RewardSettings():
            result = _reward(started, settings, folder, report)
        case recipes.PPOSettings():
            result = _ppo(started, settings, folder, report)
    document = {
        "outputs": [{**dataclasses.asdict(one), "passed": one.passed} for one in result.outputs],
        "figures": result.figures,
        "settings": dataclasses.asdict(settings),
        "versions": known,
    }
    for path in (folder / OUTPUTS).rglob("*"):
        files.sync(path)
    failpoints.reach("trainer.job.before_result")
    files.replace(folder / RESULT, json.dumps(document))
    failpoints.reach("trainer.job.before_end")


def read_started(folder: pathlib.Path) -> Started:
    """The record of the run; ArtifactCorrupt when it is not one."""
    try:
        record = json.loads((folder / STARTED).read_text())
        return Started(
            kind=runs.RunKind(record["spec"]["kind"]),
            seed=int(record["spec"]["seed"]),
            settings_json=record["spec"]["settings_json"],
            inputs={role: pathlib.Path(path) for role, path in record["inputs"].items() if path},
            gates=lines.GateConfig(**record["gates"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise errors.ArtifactCorrupt(f"{folder / STARTED} is no record of a run: {problem!r}.") from problem


def make_deterministic(threads: int, seed: int) -> None:
    """The same record, the same weights: one seed, deterministic kernels, a fixed number of threads."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    import transformers

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    transformers.logging.disable_progress_bar()


def versions() -> dict[str, str]:
    """What bit-equality depends on beside the record: libraries, and the CPU with the instructions torch uses of it."""
    import torch

    packages = {name: metadata.version(name) for name in ("trimtab", "torch", "transformers", "tokenizers")}
    return {
        **packages,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def _cpu() -> str:
    """The CPU's own name, where the system tells it."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _sft(started: Started, settings: recipes.SFTSettings, folder: pathlib.Path, report: "progress.Progress") -> Result:
    from trimtab.modeling import loading
    from trimtab.trainer.data import datasets
    from trimtab.trainer.methods import sft

    policy = loading.load_policy(started.input("parent"))
    dataset = datasets.read(started.input("dataset"))
    figures = sft.train(policy, dataset, settings, started.seed, report)
    gates, judged = _policy_gates(started, settings, policy, dataset)
    return Result((_save_policy(folder, policy, started, gates),), {**figures, **judged})


def _reward(
    started: Started, settings: recipes.RewardSettings, folder: pathlib.Path, report: "progress.Progress"
) -> Result:
    from trimtab.modeling import loading, rewards
    from trimtab.trainer.data import datasets
    from trimtab.trainer.reward import reward_model

    parent = loading.load_policy(started.input("parent"))
    dataset = datasets.read(started.input("dataset"))
    trained, figures = reward_model.train_both(parent, dataset, settings, started.seed, report)
    outputs = []
    for one in trained:
        output = Output(f"{OUTPUTS}/{one.kind.value}", one.kind, started.kind.value, one.gates)
        rewards.save_reward_model(one.reward, folder / output.folder)
        outputs.append(output)
        prefix = "" if one.kind is models.ModelKind.REWARD else "evaluation_"
        figures |= {f"{prefix}{name}": value for name, value in one.figures.items()}
    return Result(tuple(outputs), figures)


def _ppo(started: Started, settings: recipes.PPOSettings, folder: pathlib.Path, report: "progress.Progress") -> Result:
    from trimtab.modeling import loading, rewards
    from trimtab.trainer.data import datasets
    from trimtab.trainer.methods import ppo

    policy = loading.load_policy(started.input("parent"))
    reference = loading.load_policy(started.input("reference"))
    reward = rewards.load_reward_model(started.input("reward"))
    dataset = datasets.read(started.input("dataset"))
    figures = ppo.train(policy, reference, reward, dataset, settings=settings, seed=started.seed, report=report)
    gates, judged = _policy_gates(started, settings, policy, dataset)
    return Result((_save_policy(folder, policy, started, gates),), {**figures, **judged})


def _policy_gates(
    started: Started,
    settings: recipes.SFTSettings | recipes.PPOSettings,
    policy: "loading.LoadedPolicy",
    dataset: "datasets.Dataset",
) -> tuple[tuple[models.GateFigure, ...], dict[str, float]]:
    """The candidate's gates and figures; none where the run was given no evaluation reward model."""
    if "evaluation_reward" not in started.inputs:
        return (), {}
    from trimtab.modeling import loading, rewards
    from trimtab.trainer.data import encoding
    from trimtab.trainer.judging import evaluation, gates

    reference = loading.load_policy(started.input("reference"))
    judge = rewards.load_reward_model(started.input("evaluation_reward"))
    prompts = encoding.distinct_prompts(dataset.of("held_out"))
    seed = encoding.seed_of(started.seed, "evaluation")
    measured = evaluation.measure(policy, reference, judge, prompts, settings, seed=seed)
    return gates.of_policy(measured, started.gates, settings.evaluation_minimum), measured.figures()


def _save_policy(
    folder: pathlib.Path,
    policy: "loading.LoadedPolicy",
    started: Started,
    gates: tuple[models.GateFigure, ...],
) -> Output:
    from trimtab.modeling import loading

    output = Output(f"{OUTPUTS}/policy", models.ModelKind.POLICY, started.kind.value, gates)
    loading.save_policy(policy.model, policy.tokenizer, policy.profile, folder / output.folder)
    return output


if __name__ == "__main__":
    main()
