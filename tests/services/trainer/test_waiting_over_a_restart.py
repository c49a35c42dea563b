"""The command line follows a run to its end, also over a restart of the trainer, and gives up on one that is gone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from tests.services.trainer.conftest import LINE, TENANT, Installation, until

import trimtab_client
from trimtab.cli import platform
from trimtab.core import errors, runs
from trimtab.trainer import app, settings
from trimtab.wire import calls


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
