"""The command line follows a run to its end, also over a restart of the trainer, and gives up on one that is gone. What
a trainer did before it died is not done again when the command asks again."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest
from tests.services.trainer.conftest import LINE, TENANT, Installation, until

import trimtab_client
from trimtab.bus import topics
from trimtab.cli.machine import platform
from trimtab.cli.models import training
from trimtab.core import audit, errors, failpoints, runs
from trimtab.trainer import app, settings
from trimtab.wire import calls, schemas


@contextlib.asynccontextmanager
async def trainer_at(installation: Installation, address: str) -> AsyncIterator[None]:
    config = settings.TrainerSettings.model_validate({**installation.flags(), "listen": address})
    async with app.build(config).serving():
        yield


@contextlib.asynccontextmanager
async def doors_to(installation: Installation, address: str) -> AsyncIterator[platform.Doors]:
    """The doors of an operator; only the trainer's leads anywhere."""
    async with trimtab_client.connect(address, installation.token) as channel:
        await asyncio.wait_for(channel.channel_ready(), 30)
        yield platform.Doors(
            facts=platform.Facts(TENANT, LINE, "", {"trainer": address}),
            api_key="",
            ledger=calls.LedgerCalls(channel),
            trainer=calls.TrainerCalls(channel),
            rollout=calls.RolloutCalls(channel),
            feedback=calls.FeedbackCalls(channel),
            reward=calls.RewardCalls(channel),
        )


async def ask(doors: platform.Doors, installation: Installation) -> runs.Run:
    spec = runs.RunSpec(
        tenant=TENANT,
        line=LINE,
        kind=runs.RunKind.SFT,
        parent_id=installation.policy_id,
        dataset_id=installation.demonstrations_id,
        settings_json='{"epochs": 60, "batch": 4}',
    )
    return await doors.trainer.start_run(runs.StartRunRequest(spec, "ada"), timeout_s=30)


async def heard(words: list[str], part: str) -> None:
    """Returns once somebody was told something with these words in it."""

    async def told() -> bool:
        return any(part in line for line in words)

    await until(told, seconds=240)


@pytest.mark.slow
async def test_a_run_is_followed_over_a_restart_and_a_queued_one_says_what_it_waits_for(
    installation: Installation, unused_tcp_port: int
) -> None:
    address = f"127.0.0.1:{unused_tcp_port}"
    first, second = list[str](), list[str]()
    async with contextlib.AsyncExitStack() as stack:
        async with trainer_at(installation, address):
            doors = await stack.enter_async_context(doors_to(installation, address))
            asked = [await ask(doors, installation) for _ in range(2)]
            watching = [
                asyncio.create_task(platform.finished(doors, run, words.append))
                for run, words in zip(asked, (first, second), strict=True)
            ]
            await heard(first, "step ")
        await heard(first, "asking again")
        async with trainer_at(installation, address):
            ended = await asyncio.gather(*watching)
    assert [run.state for run in ended] == [runs.RunState.SUCCEEDED] * 2
    assert [run.id for run in ended] == [run.id for run in asked]
    assert any(f"waits for its turn behind {asked[0].id} (sft, asked for by ada: " in line for line in second)


async def test_a_trainer_that_stays_away_is_given_up(installation: Installation, unused_tcp_port: int) -> None:
    address, words = f"127.0.0.1:{unused_tcp_port}", list[str]()
    async with contextlib.AsyncExitStack() as stack:
        async with trainer_at(installation, address):
            doors = await stack.enter_async_context(doors_to(installation, address))
            run = await ask(doors, installation)
            watching = asyncio.create_task(platform.finished(doors, run, words.append, away_limit_s=1.0))
            await heard(words, "loading")
        with pytest.raises(errors.ServiceUnavailable):
            await asyncio.wait_for(watching, 30)


@contextlib.asynccontextmanager
async def dying_trainers(installation: Installation, address: str, deaths: list[str]) -> AsyncIterator[None]:
    """Trainers at one address, each after the death of the one before: at these failpoints, and one that lives."""
    command = (sys.executable, "-m", "trimtab.cli.app", "trainer", *installation.argv(), "--listen", address)
    living: list[asyncio.subprocess.Process] = []

    async def keep() -> None:
        for death in [*deaths, ""]:
            environment = {**os.environ, failpoints.VARIABLE: death}
            living[:] = [
                await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.DEVNULL)
            ]
            assert await living[0].wait() == (-signal.SIGKILL if death else 0)

    keeping = asyncio.create_task(keep())
    try:
        yield
    finally:
        living[0].terminate()
        await asyncio.wait_for(keeping, 30)


async def test_a_trainer_that_dies_between_doing_and_answering_is_asked_again_and_does_it_once(
    installation: Installation, unused_tcp_port: int
) -> None:
    address = f"127.0.0.1:{unused_tcp_port}"
    facts = platform.Facts(
        TENANT, LINE, "", dict.fromkeys(("ledger", "trainer", "rollout", "feedback", "reward"), address)
    )
    platform.Layout(installation.folder).facts.write_text(json.dumps(dataclasses.asdict(facts)))
    inputs = {"parent_id": installation.policy_id, "dataset_id": installation.demonstrations_id}
    asked = training.Asked(runs.RunKind.SFT, LINE, inputs, ["epochs=100000", "batch=4"], seed=0, label="")
    # the act is committed there and not yet answered: the first trainer's start, the second one's cancellation
    async with dying_trainers(installation, address, ["trail.before_append", "trail.before_append:2"]):
        await training.start(installation.folder, asked, watch=False, as_json=False)
        await training.cancel(installation.folder, "run-", "seen enough")
        async with doors_to(installation, address) as doors:
            [run] = await doors.trainer.list_runs(runs.ListRunsRequest(TENANT), timeout_s=10)
            watched = doors.trainer.watch_run(runs.GetRunRequest(TENANT, run.id), timeout_s=60)
            assert [one.state async for one in watched][-1] is runs.RunState.CANCELLED
    acts = [schemas.decode(one.value, one.headers, audit.AuditRecord) for one in installation.records(topics.AUDIT)]
    assert [(one.act, one.target) for one in acts] == [("run.start", run.id), ("run.cancel", run.id)]
