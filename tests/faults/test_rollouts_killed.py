"""A job that learns from the answers of a policy process is killed around their journal: what it had learned from stays
what it learns from.
"""

import concurrent.futures
import json
import os
import pathlib
import shutil
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.faults import killing, test_job_killed
from tests.services.policy import harness

from trimtab.cli import show
from trimtab.cli.machine import platform, sampling
from trimtab.core import errors, models
from trimtab.rpc import secrets
from trimtab.trainer import record
from trimtab.trainer.methods import elsewhere

JOURNAL = killing.under("trainer.rollouts.")
SNAPSHOTS = killing.under("trainer.snapshots.")
WALKED = [*JOURNAL, *SNAPSHOTS]
ITERATIONS = 3


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Running]:
    """Serves the policy that the job starts from; the job's other inputs lie beside it."""
    folder = tmp_path_factory.mktemp("installation")
    killing.run(test_job_killed.make_inputs, folder)
    shutil.copytree(folder / "policy", folder / "weights")
    secrets.create(folder / "secrets.toml", harness.TENANT)
    (folder / "lines.toml").write_text(f'[lines.{harness.LINE}]\ntenant = "{harness.TENANT}"\n')
    installation = harness.Installation(folder, "")
    installation.model_id = harness.publish(installation, models.ModelKind.POLICY)
    with harness.started(installation) as running:
        yield running


def prepare(
    folder: pathlib.Path, process: harness.Running, journal: pathlib.Path | None = None, **changes: Any
) -> pathlib.Path:
    test_job_killed.prepare(folder, "grpo", process.installation.folder)
    started = json.loads((folder / "started.json").read_text())
    settings: dict[str, Any] = {"iterations": ITERATIONS, "prompts": 3, "samples": 2, "max_tokens": 8}
    started["spec"] |= {
        "settings_json": json.dumps({**settings, "sampler": process.address, **changes}),
        "parent_id": process.installation.model_id,
        "tenant": harness.TENANT,
        "line": harness.LINE,
    }
    (folder / "started.json").write_text(json.dumps(started))
    if journal is not None:
        shutil.copytree(journal, folder / elsewhere.ROLLOUTS)
    return folder


def work(folder: pathlib.Path, secrets_file: pathlib.Path) -> None:
    os.environ[record.SECRETS_FILE] = str(secrets_file)
    test_job_killed.work(folder)


@pytest.mark.parametrize("point", [f"{point}:{nth}" for point in JOURNAL for nth in (1, 2)])
def test_a_resumed_run_learns_from_the_answers_it_has_and_asks_for_the_others(
    point: str, process: harness.Running, tmp_path: pathlib.Path
) -> None:
    known = process.installation.folder / "secrets.toml"
    folder = prepare(tmp_path / "run", process)
    killing.kill(point, work, folder, known)
    journal = {path.name: path.read_bytes() for path in (folder / elsewhere.ROLLOUTS).glob("*.json")}
    killing.run(work, folder, known)
    after = {path.name: path.read_bytes() for path in (folder / elsewhere.ROLLOUTS).glob("*.json")}
    assert len(after) == ITERATIONS and journal.items() <= after.items()
    # an uninterrupted run on the same answers, with nobody to ask
    other = prepare(tmp_path / "other", process, folder / elsewhere.ROLLOUTS)
    shutil.copy(folder / "started.json", other / "started.json")
    killing.run(work, other, known)
    assert test_job_killed.outcome(other) == test_job_killed.outcome(folder)


@pytest.mark.slow
def test_a_run_goes_on_with_the_weights_it_writes_down_and_a_killed_one_too(
    process: harness.Running, tmp_path: pathlib.Path
) -> None:
    """The process at the address is replaced by one that serves the newer weights, adapters merged into them."""
    known = process.installation.folder / "secrets.toml"
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    changes = {"iterations": 4, "max_staleness": 1, "snapshot_every": 2, "lora_rank": 2, "lr": 0.03}
    folder = prepare(tmp_path / "run", process, sampler=address, **changes)
    stop = threading.Event()
    environment = {
        f"TRIMTAB_{name.upper()}": str(value)
        for name, value in process.installation.settings().model_dump(exclude_unset=True).items()
        if name != "model_id"
    }
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        follower = threads.submit(sampling.follow, folder, environment, stop, show.Screen())
        try:
            for point in SNAPSHOTS:
                killing.kill(point, work, folder, known)
            killing.run(work, folder, known)
        finally:
            stop.set()
        follower.result(60)
    rows = [json.loads(elsewhere.entry(folder, elsewhere.ROLLOUTS, number).read_text()) for number in range(4)]
    assert [{row["staleness"] for row in of} for of in rows] == [{0}, {1}, {0}, {1}]
    assert not any(row["refused"] for of in rows for row in of)
    digests = [{row["digest"] for row in of} for of in rows]
    parent = process.installation.registry.manifest(process.installation.model_id)
    assert digests[:2] == [{parent.loaded_digest}] * 2
    assert digests[2] == digests[3] and len(digests[2]) == 1 and digests[2] != digests[0]
    # what drew the third iteration's answers is what was in training, which had moved on
    told = [row["figures"]["effective_sample_share"] for row in test_job_killed.outcome(folder)["told"]]
    assert told[1] < 1 - 1e-6 and told[2] == pytest.approx(1.0, abs=1e-6)
    other = prepare(tmp_path / "other", process, folder / elsewhere.ROLLOUTS)
    shutil.copy(folder / "started.json", other / "started.json")
    killing.run(work, other, known)
    assert test_job_killed.outcome(other) == test_job_killed.outcome(folder)


def test_without_the_file_of_the_token_the_run_says_what_is_missing(
    process: harness.Running, tmp_path: pathlib.Path
) -> None:
    folder = prepare(tmp_path / "run", process)
    killing.run(work_without_secrets, folder)
    assert "TRIMTAB_SECRETS_FILE is not set" in (folder / "problem.txt").read_text()


@pytest.mark.parametrize(
    ("run", "changes", "sentence"),
    [
        ("run-9", {}, "There is no started run 'run-9'"),
        ("run-1", {"sampler": ""}, "draws its answers in pro"),
    ],
)
def test_a_run_that_asks_no_process_is_served_by_none(
    run: str, changes: dict[str, Any], sentence: str, process: harness.Running, tmp_path: pathlib.Path
) -> None:
    runs = platform.Layout(tmp_path).runs
    runs.mkdir(parents=True)
    prepare(runs / "run-1", process, **changes)
    with pytest.raises(errors.TrimtabError, match=sentence):
        sampling.serve(tmp_path, run)


def work_without_secrets(folder: pathlib.Path) -> None:
    os.environ.pop(record.SECRETS_FILE, None)
    with pytest.raises(SystemExit):
        test_job_killed.work(folder)
