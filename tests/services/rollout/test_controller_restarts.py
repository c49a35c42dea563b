"""A controller that died anywhere continues from the record; what it started goes on serving meanwhile."""

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
from typing import Any

import pytest

from trimtab.bus import publish, topics
from trimtab.core import clock, control, errors, ledger, lines, releases
from trimtab.rollout import book, line, processes, steps

TENANT, LINE = "acme", "support"
State = releases.ReleaseState
# As the platform's own line has it: few candidate answers are enough, whatever the salt draws.
CONFIG = lines.ReleaseConfig(
    minimum_sessions=20, maximum_sessions=300, safety_weight=0.2, safety_completions=4, maturity_s=1.0
)


def recorded(platform: Any, *records: releases.Release) -> None:
    """As an earlier controller left it."""
    kept = book.Book(platform.log)
    kept.refresh()
    for record in records:
        kept.append([record], generation=1)
    kept.close()


def serving(platform: Any, model_id: str) -> line.Line:
    """A line that has adopted a policy, which listens nowhere yet."""
    empty = line.Line(TENANT, LINE)
    digest = platform.artifacts.manifest(model_id).loaded_digest
    arms = (releases.ArmTarget(line.STABLE, model_id, "127.0.0.1:1", 1.0, digest),)
    adopted = empty.new(model_id, CONFIG, clock.utc_now(), rule=line.ADOPTED)
    adopted = dataclasses.replace(adopted, anchor_id=model_id)
    return empty.with_record(line.moved(adopted, State.PROMOTED, "Adopted.", clock.utc_now(), arms=arms))


def brought_to(one: line.Line, model_id: str, state: State) -> releases.Release:
    now = clock.utc_now()
    release = line.moved(one.new(model_id, CONFIG, now), State.PENDING, "Published.", now)
    if state is State.PENDING:
        return release
    release = steps.begin(release, one, now)
    weight = {State.SAFETY: 0.2, State.EVIDENCE: 0.5, State.PROMOTING: 0.5}.get(state, 0.0)
    arms = line.split(line.arm(release.arms, line.STABLE), line.arm(release.arms, line.CANDIDATE), weight)
    return release if state is State.VERIFYING else line.moved(release, state, "So far.", now, arms=arms)


@pytest.mark.parametrize(
    ("state", "next_state"),
    [
        (State.PENDING, State.VERIFYING),
        (State.VERIFYING, State.SAFETY),
        (State.SAFETY, State.EVIDENCE),
        (State.EVIDENCE, State.PROMOTING),
        (State.PROMOTING, State.PROMOTED),
        (State.ROLLING_BACK, State.ROLLED_BACK),
    ],
)
async def test_a_new_controller_continues_from_the_record_in_every_state(platform, state, next_state) -> None:
    old, new = platform.publish_model("old"), platform.publish_model("new", announce=False)
    one = serving(platform, old)
    release = brought_to(one, new, state)
    recorded(platform, one.head, release)
    if state in (State.SAFETY, State.EVIDENCE):
        platform.visit(release, {old: 0.05, new: 0.95}, 120)
    async with platform.rollout():
        await platform.until(
            lambda: next_state in [move.to_state for move in platform.head().history if move.from_state is state]
        )
        await platform.until(lambda: platform.running(old))
        # What the old record said of addresses is put right.
        await platform.until(lambda: line.arm(platform.head().arms, line.STABLE).address != "127.0.0.1:1")
    head = platform.head()
    assert (head.id, head.salt) == (release.id, release.salt)
    assert head.generation > 1


async def test_policies_outlive_a_killed_controller_and_its_release_goes_on(platform) -> None:
    async with controller_process(platform) as rollout:
        old = platform.publish_model("old")
        await rollout.adopt(control.AdoptRequest(TENANT, LINE, old, "ann"))
        await platform.reach(old, State.PROMOTED)
        new = platform.publish_model("new")
        before = await platform.reach(new, State.SAFETY)
    pids = {row.name: row.pid for row in platform.table.rows()}
    async with controller_process(platform):
        platform.visit(before, {old: 0.2, new: 0.9}, 60)
        after = await platform.reach(new, State.EVIDENCE)
    assert after.id == before.id
    assert after.generation > before.generation
    assert {row.name: row.pid for row in platform.table.rows()} == pids


@contextlib.asynccontextmanager
async def controller_process(platform: Any):
    """The controller as a process of its own, killed with SIGKILL at the end."""
    config = platform.rollout_settings().model_dump(mode="json", exclude_none=True)
    config["listen"] = platform.table.ensure(processes.ProcessSpec("address of the controller", ("true",))).address
    platform.table.release("address of the controller")
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in config.items() if not isinstance(value, bool)]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "trimtab.cli.app", "rollout", *flags)
    try:
        async with platform.calls_to(config["listen"]) as rollout:
            yield rollout
    finally:
        process.kill()
        await process.wait()


async def test_a_second_controller_waits_and_takes_over_when_the_first_one_leaves(platform) -> None:
    async with contextlib.AsyncExitStack() as first_life:
        first = await first_life.enter_async_context(platform.rollout())
        old = platform.publish_model("old")
        await first.adopt(control.AdoptRequest(TENANT, LINE, old, "ann"))
        adopted = await platform.reach(old, State.PROMOTED)
        async with platform.rollout() as second:
            listed = await second.list_releases(control.ListReleasesRequest(TENANT, LINE))
            assert [release.id for release in listed] == [adopted.id]
            with pytest.raises(errors.ServiceUnavailable, match="has no lease"):
                late = platform.publish_model("late", announce=False)
                await second.adopt(control.AdoptRequest(TENANT, LINE, late, "ann"))
            await first_life.aclose()
            new = platform.publish_model("new")
            release = await platform.reach(new, State.SAFETY)
            assert release.generation > adopted.generation


async def test_a_record_of_a_replaced_controller_is_not_taken_up_and_is_overruled(platform) -> None:
    old = platform.publish_model("old")
    one = serving(platform, old)
    recorded(platform, one.head)
    async with platform.rollout():
        await platform.until(lambda: platform.head().generation > 1)
        good = platform.head()
        stale = dataclasses.replace(good, revision=good.revision + 7, generation=1, arms=())
        await asyncio.to_thread(_append_raw, platform, stale)
        await platform.until(lambda: platform.head().revision > stale.revision)
    assert platform.head().arms == good.arms


async def test_a_release_under_way_routes_again_when_the_log_kept_another_record_alone(platform) -> None:
    """Kafka may store the first records of an append alone: here a new release's, without the active one."""
    old, new = platform.publish_model("old"), platform.publish_model("new", announce=False)
    later = platform.publish_model("later", announce=False)
    one = serving(platform, old)
    active = brought_to(one, new, State.SAFETY)
    recorded(platform, one.head, active)
    async with platform.rollout():
        await platform.until(lambda: platform.running(old) and platform.running(new))
        await platform.until(lambda: line.arm(platform.head().arms, line.STABLE).address != "127.0.0.1:1")
        await asyncio.sleep(1.0)  # whatever else it has to write is written
        head = platform.head()
        waiting = dataclasses.replace(
            brought_to(one, later, State.PENDING),
            revision=head.revision + 1,
            generation=head.generation,
            arms=head.arms,
        )
        await asyncio.to_thread(_append_raw, platform, waiting)
        await platform.until(lambda: platform.head().revision > waiting.revision)
    assert (platform.head().id, platform.head().arms) == (active.id, head.arms)


def _append_raw(platform: Any, release: releases.Release) -> None:
    publish.publish(platform.log, topics.ROLLOUTS, release.id.encode(), release).result()


async def test_a_policy_that_was_killed_comes_back_at_its_address_and_nothing_is_released(platform) -> None:
    async with platform.rollout() as rollout:
        old = platform.publish_model("old")
        await rollout.adopt(control.AdoptRequest(TENANT, LINE, old, "ann"))
        await platform.reach(old, State.PROMOTED)
        records = len(platform.records())
        (row,) = platform.table.rows()
        os.kill(row.pid, signal.SIGKILL)
        await platform.until(lambda: platform.running(old) and platform.table.rows()[0].pid != row.pid)
        assert platform.table.rows()[0].address == row.address
        assert len(platform.records()) == records


async def test_the_lease_is_asked_for_by_name_and_given_back(platform) -> None:
    async with platform.rollout():
        pass
    async with platform.ledger_calls() as asked:
        answer = await asked.acquire_lease(ledger.AcquireLeaseRequest("rollout", "somebody else", 1.0))
    assert answer.held
