"""A job whose answers a reward service scores is killed around the scores' journal: it ends as if it had not been."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from tests.faults import killing, test_job_killed
from tests.services.reward import conftest, harness

from trimtab.core import models
from trimtab.rpc import secrets
from trimtab.trainer import record
from trimtab.trainer.methods import elsewhere

WALKED = killing.under("trainer.scores.")
ITERATIONS = 3
# Nobody listens there.
NOBODY = "127.0.0.1:1"


@dataclasses.dataclass(frozen=True)
class Service:
    """A reward service with the job's reward model; the job's inputs lie in the same folder."""

    folder: pathlib.Path
    address: str
    model_id: str


def make_inputs(folder: pathlib.Path) -> None:
    """With a reward model that tells answers apart."""
    import torch

    from trimtab.modeling import rewards

    test_job_killed.make_inputs(folder)
    reward = rewards.load_reward_model(folder / "reward")
    with torch.no_grad():
        reward.model.score.weight.normal_(generator=torch.Generator().manual_seed(5))
    rewards.save_reward_model(reward, folder / "reward")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("installation")
    killing.run(make_inputs, folder)
    secrets.create(folder / "secrets.toml", conftest.TENANT)
    (folder / "lines.toml").write_text(f'[lines.{conftest.LINE}]\ntenant = "{conftest.TENANT}"\n')
    installation = conftest.Installation(folder)
    model_id = installation.publish(folder / "reward", kind=models.ModelKind.REWARD)
    with harness.started(installation) as address:
        yield Service(folder, address, model_id)


def prepare(folder: pathlib.Path, service: Service) -> pathlib.Path:
    test_job_killed.prepare(folder, "rloo", service.folder)
    name(folder, service.address, service.model_id)
    return folder


def name(folder: pathlib.Path, address: str, model_id: str) -> None:
    """Writes into the run's record who scores; nothing else of it changes."""
    started = json.loads((folder / "started.json").read_text())
    settings: dict[str, Any] = {"iterations": ITERATIONS, "prompts": 3, "samples": 2, "max_tokens": 8}
    settings |= {"scorer": address} if address else {}
    started["spec"] |= {"settings_json": json.dumps(settings), "reward_id": model_id}
    (folder / "started.json").write_text(json.dumps(started))


def work(folder: pathlib.Path, secrets_file: pathlib.Path) -> None:
    os.environ[record.SECRETS_FILE] = str(secrets_file)
    test_job_killed.work(folder)


def refused(folder: pathlib.Path, secrets_file: pathlib.Path) -> None:
    with pytest.raises(SystemExit):
        work(folder, secrets_file)


@pytest.fixture(scope="module")
def unkilled(service: Service, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = prepare(tmp_path_factory.mktemp("unkilled") / "run", service)
    killing.run(work, folder, service.folder / "secrets.toml")
    told = [row["figures"]["score"] for row in test_job_killed.outcome(folder)["told"]]
    assert len(set(told)) == ITERATIONS and 0.0 not in told
    return test_job_killed.outcome(folder)


@pytest.mark.parametrize("point", [f"{WALKED[0]}:1", f"{WALKED[1]}:2"])
def test_a_run_killed_around_the_journal_of_its_scores_ends_as_if_it_had_not_been(
    point: str, service: Service, unkilled: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    folder, known = prepare(tmp_path / "run", service), service.folder / "secrets.toml"
    killing.kill(point, work, folder, known)
    journal = {path.name: path.read_bytes() for path in (folder / elsewhere.SCORES).glob("*.json")}
    assert len(journal) == (0 if "before" in point else 2)
    killing.run(work, folder, known)
    after = {path.name: path.read_bytes() for path in (folder / elsewhere.SCORES).glob("*.json")}
    assert len(after) == ITERATIONS and journal.items() <= after.items()
    assert test_job_killed.outcome(folder) == unkilled


def test_scores_that_are_journaled_are_asked_of_nobody(
    service: Service, unkilled: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    """Killed after the last scores came, with a checkpoint before them, and the service gone: it ends the same."""
    folder, known = prepare(tmp_path / "run", service), service.folder / "secrets.toml"
    killing.kill(f"trainer.scores.journaled:{ITERATIONS}", work, folder, known)
    for path in (folder / "checkpoints").glob("*"):
        path.unlink()
    name(folder, NOBODY, service.model_id)
    killing.run(work, folder, known)
    assert test_job_killed.outcome(folder)["files"] == unkilled["files"]


def test_a_service_without_the_runs_reward_model_is_refused_with_the_remedy(
    service: Service, tmp_path: pathlib.Path
) -> None:
    folder = prepare(tmp_path / "run", service)
    name(folder, service.address, "f" * 64)
    killing.run(refused, folder, service.folder / "secrets.toml")
    said = (folder / record.PROBLEM).read_text()
    assert "`settings_json.scorer` names a reward service that does not know the run's reward model" in said
    assert "leave it out to score in process" in said and not (folder / elsewhere.SCORES).exists()
