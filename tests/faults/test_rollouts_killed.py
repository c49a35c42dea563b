"""A job that learns from the answers of a policy process is killed around their journal: what it had learned from stays
what it learns from.
"""

import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from tests.faults import killing, test_job_killed
from tests.services.policy import harness

from trimtab.core import models
from trimtab.rpc import secrets
from trimtab.trainer import record
from trimtab.trainer.methods import elsewhere

WALKED = killing.under("trainer.rollouts.")
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


def prepare(folder: pathlib.Path, process: harness.Running, journal: pathlib.Path | None = None) -> pathlib.Path:
    test_job_killed.prepare(folder, "grpo", process.installation.folder)
    started = json.loads((folder / "started.json").read_text())
    settings: dict[str, Any] = {"iterations": ITERATIONS, "prompts": 3, "samples": 2, "max_tokens": 8}
    started["spec"] |= {
        "settings_json": json.dumps({**settings, "sampler": process.address}),
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


@pytest.mark.parametrize("point", [f"{point}:{nth}" for point in WALKED for nth in (1, 2)])
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


def test_without_the_file_of_the_token_the_run_says_what_is_missing(
    process: harness.Running, tmp_path: pathlib.Path
) -> None:
    folder = prepare(tmp_path / "run", process)
    killing.run(work_without_secrets, folder)
    assert "TRIMTAB_SECRETS_FILE is not set" in (folder / "problem.txt").read_text()


def work_without_secrets(folder: pathlib.Path) -> None:
    os.environ.pop(record.SECRETS_FILE, None)
    with pytest.raises(SystemExit):
        test_job_killed.work(folder)
