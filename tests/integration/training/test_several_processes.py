"""Several processes train the model that one would have trained, and any number goes on from what another left."""

import json
import os
import pathlib
import signal
import sys
import time
from typing import Any

import pytest
from safetensors import torch as tensor_files
from tests.integration.training import making, together
from tests.integration.training.test_any_reward_model import published_encoder

from trimtab.trainer import record
from trimtab.trainer.data import datasets
from trimtab.trainer.runs import jobs

QUICK = {"epochs": 1, "batch": 7, "lr": 1e-3, "warmup_steps": 1}
POLICY = {"evaluation_prompts": 6, "evaluation_minimum": 2}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {**QUICK, **POLICY, "micro_batch_positions": 64}),
    "dpo": ("dpo", {**QUICK, **POLICY, "micro_batch_positions": 128}),
    "reward": ("reward", {**QUICK, "batch": 12}),
    "reward of four heads": ("reward", {**QUICK, "batch": 12, "heads": 4}),
    "sft of adapters": ("sft", {**QUICK, **POLICY, "lora_rank": 2, "lr": 1e-2}),
    "dpo of adapters": ("dpo", {**QUICK, **POLICY, "lora_rank": 2, "lr": 1e-2}),
}
# Largest difference of a weight.
CLOSE = 1e-5


@pytest.fixture(scope="module")
def inputs(folder_of_policy: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("dataset")
    datasets.write(folder / "dataset", [*making.demonstrations().examples, *making.feedback().examples], [])
    return {"parent": str(folder_of_policy), "reference": str(folder_of_policy), "dataset": str(folder / "dataset")}


@pytest.fixture(scope="module")
def alone(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """The folder of each run, taken by one process."""
    scratch = tmp_path_factory.mktemp("alone")
    folders = {}
    for name, (kind, settings) in RUNS.items():
        folders[name] = together.prepare(scratch / name, kind, settings, inputs)
        assert together.run(folders[name], 1) == [0]
    return folders


def weights(folder: pathlib.Path) -> dict[str, Any]:
    """Every tensor of every model that a run made."""
    found = {
        f"{path.parent.name}/{name}": tensor
        for path in sorted((folder / record.OUTPUTS).rglob("*.safetensors"))
        for name, tensor in tensor_files.load_file(path).items()
    }
    assert found
    return found


def distance(first: pathlib.Path, second: pathlib.Path) -> float:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def told(folder: pathlib.Path) -> list[tuple[str, int, dict[str, float]]]:
    rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["phase"], row["step"], row["figures"]) for row in rows]


def processes_of(folder: pathlib.Path) -> str:
    return str(json.loads((folder / record.RESULT).read_text())["versions"][record.PROCESSES])


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_take_the_steps_of_one(
    name: str, alone: dict[str, pathlib.Path], inputs: dict[str, str], tmp_path: pathlib.Path
) -> None:
    folder = together.prepare(tmp_path / "run", *RUNS[name], inputs)
    assert together.run(folder, 2) == [0, 0]
    for (phase, step, figures), (other, number, expected) in zip(told(folder), told(alone[name]), strict=True):
        assert (phase, step) == (other, number)
        assert figures == pytest.approx(expected, rel=1e-5, abs=1e-6), (phase, step)
    assert distance(folder, alone[name]) <= CLOSE
    assert (processes_of(folder), processes_of(alone[name])) == ("2", "1")


def test_the_weights_that_are_compared_have_moved(alone: dict[str, pathlib.Path], inputs: dict[str, str]) -> None:
    begun = tensor_files.load_file(pathlib.Path(inputs["parent"]) / "model.safetensors")
    for name in ("sft", "dpo", "sft of adapters", "dpo of adapters"):
        ended = weights(alone[name])
        moved = max(float((ended[f"policy/{key}"] - tensor).abs().max()) for key, tensor in begun.items())
        assert moved > 100 * CLOSE, name


CONTINUED = [
    ("sft", 1, 2),
    ("sft", 2, 1),
    ("sft", 2, 4),
    ("dpo", 1, 2),
    ("dpo of adapters", 2, 1),
    ("reward of four heads", 2, 1),
]


@pytest.mark.parametrize("case", CONTINUED, ids=str)
def test_a_killed_run_goes_on_with_another_number_of_processes(
    case: tuple[str, int, int], alone: dict[str, pathlib.Path], inputs: dict[str, str], tmp_path: pathlib.Path
) -> None:
    name, before, after = case
    folder = together.prepare(tmp_path / "run", *RUNS[name], inputs)
    together.run(folder, before, dies_at=together.KILLED)
    saved = json.loads((folder / "checkpoints" / "1.json").read_text())
    assert (saved["step"], saved["processes"]) == ((1, [before]) if "dpo" in name else (2, [before]))
    assert together.run(folder, after) == [0] * after
    assert processes_of(folder) == f"{before} then {after}"
    assert [row[:2] for row in told(folder)] == [row[:2] for row in told(alone[name])]
    assert distance(folder, alone[name]) <= CLOSE


def test_with_as_many_processes_as_before_it_ends_with_the_same_bytes(
    inputs: dict[str, str], tmp_path: pathlib.Path
) -> None:
    # draws of dropout are of the processes' own generators
    settings = {**RUNS["sft"][1], "lora_rank": 2, "lora_dropout": 0.2}
    whole, killed = (together.prepare(tmp_path / name, "sft", settings, inputs) for name in ("whole", "killed"))
    assert together.run(whole, 2) == [0, 0]
    together.run(killed, 2, dies_at=together.KILLED)
    assert together.run(killed, 2) == [0, 0]
    assert distance(killed, whole) == 0.0
    assert told(killed) == told(whole) and processes_of(killed) == "2"


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("sft", {**RUNS["sft"][1], "lr": 1e-4}), ("reward", {**RUNS["reward"][1], "lora_rank": 2})],
)
def test_in_bfloat16_they_differ_by_its_rounding(
    kind: str, settings: dict[str, Any], inputs: dict[str, str], tmp_path: pathlib.Path
) -> None:
    folders = []
    for processes in (1, 2):
        rounded = {**settings, "precision": "bfloat16"}
        folders.append(together.prepare(tmp_path / str(processes), kind, rounded, inputs))
        assert together.run(folders[-1], processes) == [0] * processes
    for (phase, step, figures), (_, _, expected) in zip(*map(told, folders), strict=True):
        assert figures == pytest.approx(expected, rel=2e-3), (phase, step)


def test_a_reward_model_that_is_no_decoder_is_refused(inputs: dict[str, str], tmp_path: pathlib.Path) -> None:
    parent = published_encoder(tmp_path / "encoder")
    folder = together.prepare(tmp_path / "run", *RUNS["reward"], {**inputs, "parent": str(parent)})
    assert together.run(folder, 2) == [record.KNOWN_PROBLEM_EXIT] * 2
    assert "is a BertForSequenceClassification, no decoder" in (folder / record.PROBLEM).read_text()


def ranks_of(agent: int) -> dict[int, int]:
    """The process of each rank that torchrun's agent has started, by /proc."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            said = (path / "environ").read_bytes().split(b"\0") if parent == agent else []
        except OSError:
            continue
        found |= {int(one[5:]): int(path.name) for one in said if one.startswith(b"RANK=")}
    return found


def until(condition: Any, what: str, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in pathlib.Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


@pytest.mark.slow
def test_when_one_is_killed_the_others_end_and_the_run_goes_on_from_its_checkpoint(
    inputs: dict[str, str], tmp_path: pathlib.Path
) -> None:
    settings = {**RUNS["sft"][1], "epochs": 40}
    whole, killed = (together.prepare(tmp_path / name, "sft", settings, inputs) for name in ("whole", "killed"))
    first = jobs.Child(jobs.RunFolder(killed), sys.executable, None, processes=2)
    until((killed / "checkpoints" / "1.json").exists, "no checkpoint")
    ranks = ranks_of(first.pid)
    assert sorted(ranks) == [0, 1]
    os.kill(ranks[1], signal.SIGKILL)
    assert first.wait(60.0) == -signal.SIGKILL
    first.close()
    assert not any(map(is_alive, ranks.values()))
    assert not (killed / record.RESULT).exists()
    for folder in (killed, whole):
        child = jobs.Child(jobs.RunFolder(folder), sys.executable, None, processes=2)
        assert child.wait(600.0) == 0, (folder / jobs.LOG).read_text()
        child.close()
    assert "goes on from a checkpoint" in (killed / jobs.LOG).read_text()
    assert distance(killed, whole) == 0.0 and told(killed) == told(whole)


@pytest.mark.slow
def test_they_die_with_their_agent_and_that_with_the_trainer(inputs: dict[str, str], tmp_path: pathlib.Path) -> None:
    for number, end in enumerate((lambda child: os.kill(child.pid, signal.SIGKILL), jobs.Child.close)):
        folder = together.prepare(tmp_path / str(number), "sft", {**RUNS["sft"][1], "epochs": 1000}, inputs)
        child = jobs.Child(jobs.RunFolder(folder), sys.executable, None, processes=2)
        until((folder / "metrics.jsonl").exists, "no step")
        ranks = ranks_of(child.pid)
        assert sorted(ranks) == [0, 1]
        end(child)
        assert child.wait(30.0) is not None
        until(lambda started=ranks: not any(map(is_alive, started.values())), "orphans", 30.0)


@pytest.mark.slow
def test_a_run_that_cannot_be_split_says_why(inputs: dict[str, str], tmp_path: pathlib.Path) -> None:
    folder = together.prepare(tmp_path / "run", "ppo", {}, {**inputs, "reward": inputs["parent"]})
    child = jobs.Child(jobs.RunFolder(folder), sys.executable, None, processes=2)
    assert child.wait(180.0) == record.KNOWN_PROBLEM_EXIT, (folder / jobs.LOG).read_text()
    child.close()
    said = jobs.RunFolder(folder).problem(record.KNOWN_PROBLEM_EXIT)
    assert "`kind` is ppo, which draws its own answers and runs in one process; set --job-processes to 1" in said
