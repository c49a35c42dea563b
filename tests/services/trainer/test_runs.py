"""A run ends with models published and announced exactly once, whatever dies on the way."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable

import pytest
from tests import timing
from tests.services.trainer.conftest import LINE, TENANT, Installation, until

import trimtab_client
from trimtab.core import models, runs
from trimtab.trainer import launch
from trimtab.trainer.data import store
from trimtab.trainer.runs import runbook
from trimtab.wire import calls

QUICK = '{"epochs": 2, "batch": 4}'
LONG = '{"epochs": 100000, "batch": 4}'


def sft(installation: Installation, settings_json: str) -> runs.RunSpec:
    return runs.RunSpec(
        tenant=TENANT,
        line=LINE,
        kind=runs.RunKind.SFT,
        parent_id=installation.policy_id,
        dataset_id=installation.demonstrations_id,
        settings_json=settings_json,
        seed=7,
        label="quick",
    )


async def ended(trainer: calls.TrainerCalls, run_id: str) -> runs.GetRunResponse:
    seen = [run async for run in trainer.watch_run(runs.GetRunRequest(TENANT, run_id), timeout_s=120)]
    assert [run.state in runbook.FINAL_STATES for run in seen] == [False] * (len(seen) - 1) + [True]
    return await trainer.get_run(runs.GetRunRequest(TENANT, run_id))


def weights(installation: Installation, model_id: str) -> dict[str, str]:
    files = installation.registry.manifest(model_id).files
    return {file.path: file.sha256 for file in files if file.path.endswith(".safetensors")}


@dataclasses.dataclass
class Trainer:
    process: subprocess.Popen[bytes]
    calls: calls.TrainerCalls


def spawn(installation: Installation, address: pathlib.Path) -> subprocess.Popen[bytes]:
    flags = [*installation.argv(), "--address-file", str(address)]
    with (installation.folder / "trainer.log").open("ab") as log:
        command = [sys.executable, "-m", "trimtab.cli.app", "trainer", *flags]
        return subprocess.Popen(command, stderr=log, start_new_session=True)


@contextlib.asynccontextmanager
async def started(installation: Installation) -> AsyncIterator[Trainer]:
    """The trainer as a process of its own."""
    address = installation.folder / "address"
    address.unlink(missing_ok=True)
    process = spawn(installation, address)

    async def written() -> bool:
        assert process.poll() is None, (installation.folder / "trainer.log").read_text()
        return address.exists()

    try:
        await until(written)
        async with trimtab_client.connect(address.read_text(), installation.token) as channel:
            await channel.channel_ready()
            yield Trainer(process, calls.TrainerCalls(channel))
    finally:
        process.terminate()
        process.wait(timing.PATIENCE_S)


def folder_is_free(installation: Installation, run_id: str) -> bool:
    """Whether no job holds the run folder."""
    with (installation.folder / "trainer" / "runs" / run_id / launch.LOCK_FILE).open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


async def test_a_run_trains_publishes_and_shows_its_progress(installation: Installation) -> None:
    async with installation.trainer() as trainer:
        asked = await trainer.start_run(runs.StartRunRequest(sft(installation, QUICK), "ada"))
        answer = await ended(trainer, asked.id)
    run = answer.run
    assert run.state is runs.RunState.SUCCEEDED, run.problem
    assert 0 < run.step == run.steps
    assert run.figures
    assert run.started_at is not None
    assert run.ended_at is not None
    (model,) = installation.published()
    assert answer.models == (model,)
    assert run.model_ids == (model.id,)
    assert (model.kind, model.run_id, model.generation) == (models.ModelKind.POLICY, run.id, 1)
    assert (model.parents, model.datasets) == ((installation.policy_id,), (installation.demonstrations_id,))
    manifest = installation.registry.manifest(model.id)
    assert manifest.settings["started"]["spec"] == dataclasses.asdict(run.spec)
    assert manifest.settings["started"]["gates"]["win_rate"] == 0.5
    assert manifest.versions
    assert weights(installation, model.id) != weights(installation, installation.policy_id)


@pytest.mark.slow
async def test_a_trainer_killed_in_mid_run_finishes_it_and_publishes_once(installation: Installation) -> None:
    spec = sft(installation, '{"epochs": 60, "batch": 4}')
    async with started(installation) as first:
        asked = await first.calls.start_run(runs.StartRunRequest(spec, "ada"))
        async for run in first.calls.watch_run(runs.GetRunRequest(TENANT, asked.id)):
            if run.step >= 2:
                break
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(timing.PATIENCE_S)

    async def job_is_gone() -> bool:
        return folder_is_free(installation, asked.id)

    await until(job_is_gone, 10)
    assert installation.published() == []
    async with started(installation) as second:
        answer = await ended(second.calls, asked.id)
        again = await second.calls.start_run(runs.StartRunRequest(spec, "ada"))
        uninterrupted = await ended(second.calls, again.id)
    assert answer.run.state is runs.RunState.SUCCEEDED, answer.run.problem
    assert [model.run_id for model in installation.published()] == [asked.id, again.id]
    assert weights(installation, answer.models[0].id) == weights(installation, uninterrupted.models[0].id)


async def test_a_run_that_a_person_asks_for_does_not_wait_for_a_triggered_one(installation: Installation) -> None:
    async with installation.trainer() as trainer:
        triggered = await trainer.start_run(runs.StartRunRequest(sft(installation, LONG), runs.TRIGGER))
        waiting = await trainer.start_run(runs.StartRunRequest(sft(installation, LONG), runs.TRIGGER))
        asked = await trainer.start_run(runs.StartRunRequest(sft(installation, "{}"), "ada"))
        assert (await ended(trainer, asked.id)).run.state is runs.RunState.SUCCEEDED
        state = {run.id: run.state for run in await trainer.list_runs(runs.ListRunsRequest(TENANT))}
        assert (state[triggered.id], state[waiting.id]) == (runs.RunState.RUNNING, runs.RunState.QUEUED)
        for run in (waiting, triggered):
            await trainer.cancel_run(runs.CancelRunRequest(TENANT, run.id, "ada"))


async def test_a_cancelled_run_ends_with_its_process_and_publishes_nothing(installation: Installation) -> None:
    async with installation.trainer() as trainer:
        asked = await trainer.start_run(runs.StartRunRequest(sft(installation, LONG), "ada"))
        async for run in trainer.watch_run(runs.GetRunRequest(TENANT, asked.id), timeout_s=60):
            if run.step >= 1:
                break
        await trainer.cancel_run(runs.CancelRunRequest(TENANT, asked.id, "ada", "enough"))
        answer = await ended(trainer, asked.id)
        assert answer.run.state is runs.RunState.CANCELLED
        assert folder_is_free(installation, asked.id)
    assert installation.published() == []


async def test_a_job_that_cannot_work_fails_the_run_with_a_sentence(installation: Installation) -> None:
    blob = next(
        file for file in installation.registry.manifest(installation.policy_id).files if file.path == "config.json"
    )
    (installation.folder / "registry" / "blobs" / "sha256" / blob.sha256).write_text("{}")
    async with installation.trainer() as trainer:
        asked = await trainer.start_run(runs.StartRunRequest(sft(installation, QUICK), "ada"))
        answer = await ended(trainer, asked.id)
    assert answer.run.state is runs.RunState.FAILED
    assert "config.json" in answer.run.problem
    assert installation.published() == []


def interrupted_run(installation: Installation) -> tuple[str, pathlib.Path]:
    """A run whose job has ended, left by a trainer that was killed before it could say so; its folder."""
    database = store.Store(installation.folder / "trainer" / "trainer.db")
    book = runbook.Runbook(database)
    with database.transaction() as connection:
        run_id = book.ask(connection, sft(installation, QUICK), "ada")
    book.start(run_id)
    database.close()
    folder = installation.folder / "trainer" / "runs" / run_id
    output = folder / "outputs" / "policy"
    output.mkdir(parents=True)
    (output / "config.json").write_text("{}")
    result = {
        "outputs": [{"folder": "outputs/policy", "kind": "policy", "method": "sft", "gates": [], "passed": True}],
        "figures": {"loss": 1.5},
        "settings": {},
        "versions": {"torch": "2"},
    }
    (folder / "result.json").write_text(json.dumps(result))
    started = {"spec": dataclasses.asdict(sft(installation, QUICK)), "gates": {}}
    (folder / "started.json").write_text(json.dumps(started))
    return run_id, folder


def rewind(installation: Installation) -> None:
    """As if the trainer had been killed just before it noted the run's end."""
    database = store.Store(installation.folder / "trainer" / "trainer.db")
    with database.transaction() as connection:
        connection.execute(store.RUNS.update().values(state="running", model_ids="[]", ended_at=None))
    database.close()


async def test_a_trainer_killed_while_publishing_announces_once(installation: Installation) -> None:
    run_id, folder = interrupted_run(installation)
    kept = {path: path.read_bytes() for path in folder.rglob("*.json")}
    for _ in range(3):
        async with installation.trainer() as trainer:
            answer = await ended(trainer, run_id)
        assert answer.run.state is runs.RunState.SUCCEEDED
        assert answer.run.figures == (runs.RunFigure("loss", 1.5),)
        assert not (folder / "outputs").exists()
        rewind(installation)
        for path, content in kept.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    assert [model.run_id for model in installation.published()] == [run_id]


async def test_publishing_waits_for_its_turn_with_the_lease(installation: Installation) -> None:
    installation.ledger.held[f"trainer/{TENANT}/{LINE}"] = ("somebody else", 4)
    run_id, _ = interrupted_run(installation)
    async with installation.trainer() as trainer:
        run = (await trainer.get_run(runs.GetRunRequest(TENANT, run_id))).run
        assert run.state is runs.RunState.RUNNING
        assert installation.published() == []
        installation.ledger.held.clear()
        assert (await ended(trainer, run_id)).run.state is runs.RunState.SUCCEEDED
    assert len(installation.published()) == 1


def ask_to_end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()


def press_ctrl_c(process: subprocess.Popen[bytes]) -> None:
    """A terminal tells everything in the foreground."""
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.parametrize("stop", [ask_to_end, press_ctrl_c])
async def test_a_trainer_that_is_stopped_ends_its_job_and_leaves_the_run_for_the_next(
    installation: Installation, stop: Callable[[subprocess.Popen[bytes]], None]
) -> None:
    async with started(installation) as trainer:
        asked = await trainer.calls.start_run(runs.StartRunRequest(sft(installation, LONG), "ada"))
        async for run in trainer.calls.watch_run(runs.GetRunRequest(TENANT, asked.id)):
            if run.step >= 1:
                break
        stop(trainer.process)
        assert trainer.process.wait(timing.PATIENCE_S) == 0
        assert folder_is_free(installation, asked.id)
    database = store.Store(installation.folder / "trainer" / "trainer.db")
    assert runbook.Runbook(database).get(TENANT, asked.id).state is runs.RunState.RUNNING
    database.close()
