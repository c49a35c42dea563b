"""A trainer whose jobs wait for a host on another machine: `--jobs-elsewhere` and `python -m trimtab.trainer.host`."""

import contextlib
import dataclasses
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests import timing
from tests.services.trainer.conftest import TENANT, Installation, until
from tests.services.trainer.test_runs import LONG, QUICK, ended, sft, started, weights

from trimtab.core import errors, runs
from trimtab.trainer import offers
from trimtab.wire import calls

MEDIUM = '{"epochs": 20, "batch": 4}'


@pytest.fixture
def elsewhere(installation: Installation) -> Installation:
    return dataclasses.replace(installation, jobs_elsewhere=True)


def host(installation: Installation, idle_s: float = 300.0) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "trimtab.trainer.host", str(installation.folder / "trainer" / "runs")]
    with (installation.folder / "host.log").open("ab") as log:
        return subprocess.Popen([*command, "--idle-s", str(idle_s)], stderr=log, start_new_session=True)


@contextlib.contextmanager
def hosted(installation: Installation) -> Iterator[subprocess.Popen[bytes]]:
    process = host(installation)
    try:
        yield process
    finally:
        process.kill()
        process.wait(timing.PATIENCE_S)


async def at_step(trainer: calls.TrainerCalls, run_id: str, step: int) -> None:
    async for run in trainer.watch_run(runs.GetRunRequest(TENANT, run_id), timeout_s=120):
        if run.step >= step:
            return


async def test_a_run_waits_for_a_host_which_ends_when_nothing_waits_any_more(elsewhere: Installation) -> None:
    async with elsewhere.trainer() as trainer:
        asked = await trainer.start_run(runs.StartRunRequest(sft(elsewhere, QUICK), "ada"))

        async def waits() -> bool:
            run = (await trainer.get_run(runs.GetRunRequest(TENANT, asked.id))).run
            return run.problem == "It waits for a host: `python -m trimtab.trainer.host`."

        await until(waits)
        process = host(elsewhere, idle_s=3.0)
        answer = await ended(trainer, asked.id)
    assert answer.run.state is runs.RunState.SUCCEEDED, answer.run.problem
    assert answer.run.problem == ""
    assert [model.run_id for model in elsewhere.published()] == [asked.id]
    assert process.wait(timing.PATIENCE_S) == 0
    assert not (elsewhere.folder / "trainer" / "runs" / asked.id / offers.OFFERED).exists()


@pytest.mark.slow
async def test_what_a_killed_host_began_the_next_one_ends_as_an_uninterrupted_one_would(
    elsewhere: Installation,
) -> None:
    spec = sft(elsewhere, MEDIUM)
    async with elsewhere.trainer() as trainer:
        asked = await trainer.start_run(runs.StartRunRequest(spec, "ada"))
        with hosted(elsewhere):
            await at_step(trainer, asked.id, 2)
        with hosted(elsewhere):
            answer = await ended(trainer, asked.id)
    assert answer.run.state is runs.RunState.SUCCEEDED, answer.run.problem
    here = dataclasses.replace(elsewhere, jobs_elsewhere=False)
    async with here.trainer() as trainer:
        again = await trainer.start_run(runs.StartRunRequest(spec, "ada"))
        uninterrupted = await ended(trainer, again.id)
    [one], [other] = answer.models, uninterrupted.models
    assert weights(elsewhere, one.id) == weights(elsewhere, other.id)


@pytest.mark.slow
async def test_a_job_goes_on_while_its_trainer_is_away(elsewhere: Installation) -> None:
    with hosted(elsewhere):
        async with started(elsewhere) as first:
            asked = await first.calls.start_run(runs.StartRunRequest(sft(elsewhere, MEDIUM), "ada"))
            await at_step(first.calls, asked.id, 2)
            first.process.send_signal(signal.SIGKILL)
            first.process.wait(timing.PATIENCE_S)
        folder = elsewhere.folder / "trainer" / "runs" / asked.id
        timing.until(lambda: offers.ended(folder) == offers.End(start=1, exit_code=0), "the end of the job")
    async with started(elsewhere) as second:
        answer = await ended(second.calls, asked.id)
    assert answer.run.state is runs.RunState.SUCCEEDED, answer.run.problem
    assert [model.run_id for model in elsewhere.published()] == [asked.id]


@pytest.mark.slow
async def test_what_is_cancelled_ends_at_its_host_which_takes_the_next(elsewhere: Installation) -> None:
    async with elsewhere.trainer() as trainer:
        with hosted(elsewhere):
            long = await trainer.start_run(runs.StartRunRequest(sft(elsewhere, LONG), "ada"))
            quick = await trainer.start_run(runs.StartRunRequest(sft(elsewhere, QUICK), "ada"))
            await at_step(trainer, long.id, 1)
            await trainer.cancel_run(runs.CancelRunRequest(TENANT, long.id, "ada"))
            cancelled, answer = await ended(trainer, long.id), await ended(trainer, quick.id)
    assert cancelled.run.state is runs.RunState.CANCELLED
    assert answer.run.state is runs.RunState.SUCCEEDED, answer.run.problem


async def test_a_job_that_cannot_succeed_says_why_in_the_run(elsewhere: Installation) -> None:
    spec = dataclasses.replace(sft(elsewhere, QUICK), kind=runs.RunKind.DPO)
    async with elsewhere.trainer() as trainer:
        with hosted(elsewhere):
            asked = await trainer.start_run(runs.StartRunRequest(spec, "ada"))
            run = (await ended(trainer, asked.id)).run
    assert run.state is runs.RunState.FAILED
    assert "holds no pair that can be trained on" in run.problem


def test_an_offer_stands_until_it_ended_and_the_next_has_the_next_number(tmp_path: pathlib.Path) -> None:
    assert offers.waiting(tmp_path) is None
    first = offers.make(tmp_path, processes=2)
    assert first == offers.make(tmp_path, processes=2) == offers.waiting(tmp_path) == offers.Offer(1, 2)
    offers.end(tmp_path, first, -9)
    assert offers.waiting(tmp_path) is None
    assert offers.ended(tmp_path) == offers.End(1, -9)
    offers.withdraw(tmp_path)
    assert offers.make(tmp_path, processes=1) == offers.Offer(2, 1)
    (tmp_path / offers.OFFERED).write_text("[]")
    with pytest.raises(errors.ArtifactCorrupt, match=r"offered\.json cannot be read"):
        offers.waiting(tmp_path)
