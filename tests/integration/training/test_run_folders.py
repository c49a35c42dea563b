"""A run is a pure function of its record: the job's side of the run folder."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from tests.integration.training import making

from trimtab.modeling import loading, rewards
from trimtab.trainer import job
from trimtab.trainer.data import datasets

GATES = {"win_rate": 0.5, "kl_to_anchor": 40.0, "length_ratio": 2.0, "repetition": 0.2}
SETTINGS: dict[str, dict[str, Any]] = {
    "sft": {"epochs": 2, "batch": 8, "evaluation_prompts": 6, "evaluation_minimum": 2},
    "reward": {"epochs": 1},
    "ppo": {"iterations": 2, "prompts": 4, "samples": 2, "evaluation_prompts": 6, "evaluation_minimum": 2},
    "dpo": {"lr": 1e-3, "batch": 8, "evaluation_prompts": 6, "evaluation_minimum": 2},
    "kto": {"lr": 1e-3, "batch": 8, "evaluation_prompts": 6, "evaluation_minimum": 2},
    "pretrain": {"lr": 1e-3, "batch": 4, "block_tokens": 32},
}


@pytest.fixture(scope="module")
def inputs(folder_of_policy: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every input a run can have."""
    scratch = tmp_path_factory.mktemp("inputs")
    reward = rewards.from_policy(loading.load_policy(folder_of_policy))
    rewards.save_reward_model(reward, scratch / "reward")
    everything = [*making.demonstrations().examples, *making.feedback().examples, *making.texts().examples]
    datasets.write(scratch / "dataset", everything, [])
    return {
        "parent": str(folder_of_policy),
        "reference": str(folder_of_policy),
        "reward": str(scratch / "reward"),
        "evaluation_reward": str(scratch / "reward"),
        "dataset": str(scratch / "dataset"),
    }


def record(folder: pathlib.Path, kind: str, inputs: dict[str, str], settings: Any = None, seed: int = 7) -> None:
    folder.mkdir()
    spec = {
        "kind": kind,
        "seed": seed,
        "settings_json": json.dumps(SETTINGS.get(kind, {}) if settings is None else settings),
    }
    started = {"run_id": folder.name, "spec": spec, "inputs": inputs, "gates": GATES}
    (folder / "started.json").write_text(json.dumps(started))


def run(folder: pathlib.Path) -> int:
    """Runs the job in this process; its exit code."""
    try:
        job.main([str(folder)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def run_alone(folder: pathlib.Path) -> int:
    """Runs the job as the service does, in a process of its own."""
    finished = subprocess.run(
        [sys.executable, "-m", "trimtab.trainer.job", str(folder)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "random"},
    )
    assert finished.returncode in (0, 2), finished.stderr
    return finished.returncode


def weights(folder: pathlib.Path) -> dict[str, bytes]:
    outputs = folder / "outputs"
    return {str(path.relative_to(outputs)): path.read_bytes() for path in sorted(outputs.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        ("sft", ["policy"]),
        ("reward", ["reward", "evaluation_reward"]),
        ("ppo", ["policy"]),
        ("dpo", ["policy"]),
        ("kto", ["policy"]),
        ("pretrain", ["base"]),
    ],
)
def test_the_same_record_gives_the_same_bytes_and_another_seed_others(
    kind: str, outputs: list[str], inputs: dict[str, str], tmp_path: pathlib.Path
) -> None:
    for name, seed, runner in (("one", 7, run), ("same", 7, run_alone), ("other", 8, run)):
        record(tmp_path / name, kind, inputs, seed=seed)
        assert runner(tmp_path / name) == 0
    assert weights(tmp_path / "one") == weights(tmp_path / "same")
    assert weights(tmp_path / "one") != weights(tmp_path / "other")
    result = json.loads((tmp_path / "one" / "result.json").read_text())
    assert [output["kind"] for output in result["outputs"]] == outputs
    assert all((tmp_path / "one" / output["folder"] / "model.safetensors").is_file() for output in result["outputs"])
    # a base is not served, and not judged
    assert all(output["method"] == kind for output in result["outputs"])
    assert all(output["gates"] or output["kind"] == "base" for output in result["outputs"])
    assert result == json.loads((tmp_path / "same" / "result.json").read_text())
    assert {"torch", "transformers", "trimtab"} <= result["versions"].keys()
    assert {name: result["settings"][name] for name in SETTINGS[kind]} == SETTINGS[kind]


def test_progress_and_metrics_are_told_and_a_rerun_starts_from_nothing(
    inputs: dict[str, str], tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "run"
    record(folder, "ppo", inputs)
    (folder / "outputs" / "policy").mkdir(parents=True)
    (folder / "outputs" / "policy" / "stale.safetensors").write_text("of a killed attempt")
    (folder / "problem.txt").write_text("of a killed attempt")
    assert run(folder) == 0
    assert json.loads((folder / "progress.json").read_text())["step"] == 2
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert not (folder / "problem.txt").exists() and "policy/stale.safetensors" not in weights(folder)


def test_a_run_without_a_reference_is_judged_against_its_parent_and_says_so(
    inputs: dict[str, str], tmp_path: pathlib.Path
) -> None:
    record(tmp_path / "run", "sft", {role: path for role, path in inputs.items() if role != "reference"})
    assert run(tmp_path / "run") == 0
    (output,) = json.loads((tmp_path / "run" / "result.json").read_text())["outputs"]
    names = [gate["name"] for gate in output["gates"]]
    assert "kl_to_parent" in names and "kl_to_anchor" not in names and "win_rate_over_parent" not in names


def test_without_an_evaluation_reward_model_there_are_no_gates(inputs: dict[str, str], tmp_path: pathlib.Path) -> None:
    without = {role: path for role, path in inputs.items() if role not in ("evaluation_reward", "reference")}
    record(tmp_path / "run", "sft", without)
    assert run(tmp_path / "run") == 0
    (output,) = json.loads((tmp_path / "run" / "result.json").read_text())["outputs"]
    assert output["gates"] == [] and output["passed"] is True


def said_about(folder: pathlib.Path) -> str:
    """Runs a job that cannot succeed; what it says."""
    assert run(folder) == 2
    assert not (folder / "result.json").exists()
    return (folder / "problem.txt").read_text()


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        ("dpo", {"loss": "exo"}, "`settings_json.loss` is 'exo'"),
        ("sft", {"epoch": 3}, "`settings_json.epoch` is not a setting"),
        ("ppo", {"clip": -1}, "`settings_json.clip` is -1"),
    ],
)
def test_a_run_that_is_refused_says_why_in_a_sentence(
    kind: str, settings: Any, sentence: str, inputs: dict[str, str], tmp_path: pathlib.Path
) -> None:
    record(tmp_path / "run", kind, inputs, settings)
    assert sentence in said_about(tmp_path / "run")


@pytest.mark.parametrize(
    ("kind", "missing"),
    [("sft", "parent"), ("ppo", "reward"), ("ppo", "reference"), ("dpo", "reference"), ("kto", "reference")],
)
def test_a_run_without_an_input_it_needs_names_it(
    kind: str, missing: str, inputs: dict[str, str], tmp_path: pathlib.Path
) -> None:
    record(tmp_path / "run", kind, {**inputs, missing: ""})
    assert f"`{missing}_id` is missing" in said_about(tmp_path / "run")


def test_a_folder_without_a_record_is_refused(tmp_path: pathlib.Path) -> None:
    assert run(tmp_path) == 2
    assert "is no record of a run" in (tmp_path / "problem.txt").read_text()


def test_a_refused_record_costs_no_import_of_torch(inputs: dict[str, str], tmp_path: pathlib.Path) -> None:
    record(tmp_path / "run", "kto", inputs, {"epoch": 3})
    script = (
        "import sys; from trimtab.trainer import job\n"
        "try: job.main(sys.argv[1:])\nfinally: print('torch' in sys.modules)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run")], check=False, capture_output=True, text=True
    )
    assert finished.returncode == 2 and finished.stdout.strip() == "False", finished.stderr
