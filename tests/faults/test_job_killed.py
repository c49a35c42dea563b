"""A training job killed anywhere goes on from its last checkpoint, to the bytes of one that was never killed."""

import json
import pathlib
import shutil
from typing import Any

import pytest
from tests.faults import killing
from tests.integration.training import making

from trimtab.trainer.data import datasets

WALKED = [*killing.under("trainer.checkpoint.", "trainer.progress.", "trainer.job.", "files.settle.")]
GATES = {"win_rate": 0.5, "kl_to_anchor": 40.0, "length_ratio": 2.0, "repetition": 0.2}
SETTINGS: dict[str, dict[str, Any]] = {
    "sft": {"epochs": 2, "batch": 16},
    "reward": {"epochs": 1, "batch": 16, "heads": 4, "recent_share": 0.1},
    # a target, so that the coefficient of the KL is carried from step to step
    # the reference's log-probabilities are a phase of one step
    "dpo": {"batch": 12, "lr": 1e-3},
    "kto": {"batch": 24, "lr": 1e-3},
    "pretrain": {"batch": 6, "lr": 1e-3, "block_tokens": 32},
    "ppo": {"iterations": 4, "prompts": 3, "samples": 2, "max_tokens": 8, "kl_target": 0.01, "kl_horizon": 20.0},
}
SETTINGS |= {kind: {"iterations": 4, "prompts": 3, "samples": 2, "max_tokens": 8} for kind in ("a2c", "rloo", "grpo")}
# the value head is carried too
SETTINGS["a2c"]["critic"] = "joint"
# checkpoints keep the adapters alone, and the reference is the policy without them
ADAPTED = ("reward", "dpo", "ppo")
SETTINGS |= {
    f"{kind} with adapters": {**SETTINGS[kind], "lora_rank": 2, "lora_dropout": 0.1, "precision": "bfloat16"}
    for kind in ADAPTED
}
STEPS = {"sft": 6, "reward": 6, "dpo": 4, "kto": 5, "pretrain": 4, "ppo": 4, "a2c": 4, "rloo": 4, "grpo": 4}
STEPS |= {f"{kind} with adapters": STEPS[kind] for kind in ADAPTED}


def make_inputs(folder: pathlib.Path) -> None:
    """A tiny policy, an untrained reward model, and a data set of every kind."""
    from trimtab.modeling import loading, rewards, tiny

    texts = [text.format(colour) for colour in making.COLOURS for text in (making.KIND, making.RUDE)]
    tokenizer = tiny.train_bpe(texts * 3, 300)
    model = tiny.tiny_llama(len(tokenizer), seed=1, hidden=16, layers=1, heads=2, intermediate=32, context=96)
    loading.save_policy(model, tokenizer, loading.ServingProfile(max_tokens=8), folder / "policy")
    rewards.save_reward_model(rewards.from_policy(loading.load_policy(folder / "policy")), folder / "reward")
    rows = [*making.demonstrations().examples, *making.feedback(pairs=48, thumbs=48).examples]
    rows += making.texts(30).examples
    datasets.write(folder / "dataset", rows, [])


def work(folder: pathlib.Path) -> None:
    """The job, with a checkpoint after every step."""
    from trimtab.trainer import job
    from trimtab.trainer.steps import checkpoints

    checkpoints.EVERY_S, checkpoints.SHARE = 0.0, float("inf")
    job.main([str(folder)])


def prepare(folder: pathlib.Path, kind: str, inputs: pathlib.Path, seed: int = 7) -> pathlib.Path:
    folder.mkdir()
    method = kind.removesuffix(" with adapters")
    spec = {"kind": method, "seed": seed, "settings_json": json.dumps(SETTINGS[kind])}
    roles = {"parent": "policy", "reference": "policy", "reward": "reward", "dataset": "dataset"}
    paths = {role: str(inputs / name) for role, name in roles.items()}
    (folder / "started.json").write_text(json.dumps({"spec": spec, "inputs": paths, "gates": GATES}))
    return folder


def outcome(folder: pathlib.Path) -> dict[str, Any]:
    """All that a run leaves: bytes of its outputs, its result, every row it told."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in (folder / "outputs").rglob("*.*")}
    assert any(name.endswith("model.safetensors") for name in files)
    told = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    return {"files": files, "result": json.loads((folder / "result.json").read_text()), "told": told}


def log_of(folder: pathlib.Path) -> str:
    path = folder / "log"
    return path.read_text() if path.exists() else ""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("inputs")
    killing.run(make_inputs, folder)
    return folder


@pytest.fixture(scope="module")
def unkilled(inputs: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each kind of run leaves when nobody kills it."""
    found = {}
    for kind in SETTINGS:
        folder = prepare(tmp_path_factory.mktemp("unkilled") / kind, kind, inputs)
        killing.run(work, folder)
        found[kind] = outcome(folder)
        assert len(found[kind]["told"]) == STEPS[kind]
    return found


# The n-th file that is made durable: rows of the metrics, tensors, their document, tensors, ..., the result.
SETTLED = [f"{point}:{nth}" for point in killing.under("files.settle.") for nth in (1, 2, 3, 5)]
SINGLE = [point for point in WALKED if not point.startswith("files.settle.")]


@pytest.mark.parametrize("point", [*SINGLE, *SETTLED])
def test_a_job_killed_between_any_two_writes_ends_as_if_it_had_not_been(
    point: str, inputs: pathlib.Path, unkilled: dict[str, dict[str, Any]], tmp_path: pathlib.Path
) -> None:
    folder = prepare(tmp_path / "run", "sft", inputs)
    killing.kill(point, work, folder)
    killing.run(work, folder)
    assert outcome(folder) == unkilled["sft"]


@pytest.mark.parametrize("kind", list(SETTINGS))
def test_a_job_killed_at_every_other_step_ends_as_if_it_had_not_been(
    kind: str, inputs: pathlib.Path, unkilled: dict[str, dict[str, Any]], tmp_path: pathlib.Path
) -> None:
    folder = prepare(tmp_path / "run", kind, inputs)
    for _ in range(STEPS[kind] - 2):
        # one step further each time: what it told of the second is told again
        killing.kill("trainer.progress.before_told:2", work, folder)
        assert not (folder / "result.json").exists()
    killing.run(work, folder)
    assert outcome(folder) == unkilled[kind]


def restart(folder: pathlib.Path) -> None:
    """The job, its log in a file."""
    import os

    descriptor = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 2)
    work(folder)


def tear(folder: pathlib.Path) -> None:
    (tensors,) = (folder / "checkpoints").glob("1-*.safetensors")
    content = tensors.read_bytes()
    tensors.write_bytes(content[:-3] + b"\0\1\2")


def cut_short(folder: pathlib.Path) -> None:
    (folder / "checkpoints" / "1.json").write_text('{"phase": "supervised')


def of_another_record(folder: pathlib.Path) -> None:
    other = json.loads((folder / "started.json").read_text())
    other["spec"]["seed"] = 8
    (folder / "started.json").write_text(json.dumps(other))


def of_another_library(folder: pathlib.Path) -> None:
    path = folder / "checkpoints" / "1.json"
    document = json.loads(path.read_text())
    document["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (tear, "is torn"),
        (cut_short, "it is torn"),
        (of_another_record, "it is of another record"),
        (of_another_library, "another version of torch"),
    ],
)
def test_a_checkpoint_that_cannot_be_trusted_is_not_used_and_the_log_says_so(
    spoil: Any, reason: str, inputs: pathlib.Path, unkilled: dict[str, dict[str, Any]], tmp_path: pathlib.Path
) -> None:
    folder = prepare(tmp_path / "run", "sft", inputs)
    killing.kill("trainer.progress.before_told:4", work, folder)
    spoil(folder)
    killing.run(restart, folder)
    assert reason in log_of(folder) and "starts from the beginning" in log_of(folder)
    same = outcome(folder)["files"] == unkilled["sft"]["files"]
    assert same is (spoil is not of_another_record)
    assert [row["step"] for row in outcome(folder)["told"]] == list(range(1, STEPS["sft"] + 1))


def test_a_torn_first_phase_takes_the_later_ones_along(
    inputs: pathlib.Path, unkilled: dict[str, dict[str, Any]], tmp_path: pathlib.Path
) -> None:
    folder = prepare(tmp_path / "run", "reward", inputs)
    killing.kill("trainer.progress.before_told:6", work, folder)
    assert sorted(path.name for path in (folder / "checkpoints").glob("*.json")) == ["1.json", "2.json"]
    shutil.copytree(folder, tmp_path / "kept")
    tear(folder)
    killing.run(restart, folder)
    assert outcome(folder) == unkilled["reward"]
    assert log_of(folder).count("starts from the beginning") == 1
    killing.run(restart, tmp_path / "kept")
    assert log_of(tmp_path / "kept").count("goes on from a checkpoint") == 2
