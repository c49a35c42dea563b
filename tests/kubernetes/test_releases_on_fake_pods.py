"""Releases on a real control plane whose pods are fake: promoted, rolled back, failed, and what happens meanwhile."""

import asyncio
import contextlib
import os
import pathlib
import signal
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
from kubernetes import client
from tests.faults import killing
from tests.kubernetes import cluster, platforms
from tests.services.rollout import conftest as machine
from tests.services.rollout.test_releases_end_to_end import adopted, asked, canary, weights

from trimtab.core import control, failpoints, releases
from trimtab.rollout.cluster import template

pytestmark = pytest.mark.kubernetes
State = releases.ReleaseState
RELEASED = "rollout.controller.process_released"
WALKED = [
    *killing.under("cluster."),
    "rollout.controller.process_wanted",
    RELEASED,
    "rollout.desk.before_write",
    "rollout.desk.written",
]


@pytest.fixture(scope="module")
def plane() -> Iterator[cluster.ControlPlane]:
    with platforms.control_plane() as started:
        yield started


@pytest.fixture
async def platform(plane: cluster.ControlPlane, tmp_path: pathlib.Path) -> AsyncIterator[platforms.Platform]:
    one = platforms.Platform(tmp_path, plane)
    async with machine.with_ledger(one), one.pods.running():
        yield one
    plane.kubectl("delete", "namespace", one.namespace, "--wait=false")
    one.log.close()


async def test_a_better_policy_is_promoted_and_undone_without_a_pod_started_anew(platform: platforms.Platform) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        new = platform.publish_model("new")
        promoted = await canary(platform, new, {old: 0.3, new: 0.9})
        assert promoted.state is State.PROMOTED
        assert weights(platform.head()) == {new: 1.0, old: 0.0}
        pods = list(platform.pods.seen)
        assert len(pods) == 4
        await platform.until(lambda: roles(platform) == {new: "stable", old: "previous"})
        lease = client.CoordinationV1Api(platform.plane.client).read_namespaced_lease(
            "shop-rollout", platform.namespace
        )
        assert lease.spec.holder_identity
        await rollout.undo(asked("users complain"))
        undone = await platform.reach(new, State.ROLLED_BACK)
        assert weights(undone) == {old: 1.0, new: 0.0}
        await platform.until(lambda: roles(platform) == {old: "stable", new: "previous"})
        assert platform.pods.seen == pods
        told = [(one.reason, one.involved_object.name) for one in platform.events()]
        assert told == [
            ("Promoted", "shop-policy-support-a"),
            *((state, "shop-policy-support-b") for state in ("Safety", "Evidence", "Promoting", "Promoted")),
            *((state, "shop-policy-support-b") for state in ("RollingBack", "RolledBack")),
        ]
        assert (
            "which proves the candidate" in next(one for one in platform.events() if one.reason == "Promoting").message
        )
    after = client.CoordinationV1Api(platform.plane.client).read_namespaced_lease("shop-rollout", platform.namespace)
    assert not after.spec.holder_identity


def roles(platform: platforms.Platform) -> dict[str, str]:
    return {policy: one.metadata.labels[template.ROLE] for policy, one in platform.deployments().items()}


async def test_a_worse_policy_is_rolled_back_and_its_slot_is_the_next_ones(platform: platforms.Platform) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        bad = platform.publish_model("bad")
        assert (await canary(platform, bad, {old: 0.9, bad: 0.1})).state is State.ROLLED_BACK
        await platform.until(lambda: not platform.running(bad))
        third = platform.publish_model("third")
        release = await platform.reach(third, State.SAFETY)
        assert [arm.address.split(".")[0] for arm in release.arms] == [
            f"dns:///shop-policy-support-a-{old[:12]}",
            f"dns:///shop-policy-support-b-{third[:12]}",
        ]


async def test_one_pod_of_two_with_other_bytes_ends_the_release(platform: platforms.Platform) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        platform.pods.lies.add("next")
        new = platform.publish_model("new")
        failed = await platform.reach(new, State.FAILED)
        assert f"loaded bytes with digest '{platforms.WRONG}'" in failed.history[-1].reason
        assert weights(platform.head()) == {old: 1.0}


async def test_a_pod_of_the_stable_policy_that_comes_back_with_other_bytes_is_replaced(
    platform: platforms.Platform,
) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        before = platform.head()
        [gone, *_] = platform.pods.seen
        platform.pods.lies.add("next")
        platform.plane.kubectl("delete", "pod", gone, "-n", platform.namespace)
        await platform.until(lambda: len(platform.pods.seen) == 4)
        [liar] = platform.pods.lies
        assert platform.pods.seen[2] == liar
        await platform.until(lambda: liar not in names(platform) and len(names(platform)) == 2)
        assert platform.head() == before
        assert platform.running(old)


def names(platform: platforms.Platform) -> list[str]:
    return [
        one.metadata.name
        for one in client.CoreV1Api(platform.plane.client).list_namespaced_pod(platform.namespace).items
    ]


@pytest.mark.parametrize(
    ("outcome", "words"),
    [("never-ready", "It was not ready within 8 s: 0 of 2 pods are ready"), ("crash", "CrashLoopBackOff")],
)
async def test_pods_that_do_not_come_up_end_the_release_and_the_next_one_has_its_turn(
    platform: platforms.Platform, outcome: str, words: str
) -> None:
    platform.lines_file.write_text(f"{machine.LINES}ready_within_s = 8\n")
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        broken = platform.publish_model("broken", announce=False)
        platform.pods.outcomes[broken] = outcome
        await rollout.start_release(started(broken))
        failed = await platform.reach(broken, State.FAILED)
        assert words in failed.history[-1].reason
        assert weights(platform.head()) == {old: 1.0}
        await platform.until(lambda: not platform.running(broken))
        platform.publish_model("sound")
        await platform.until(lambda: platform.head().state is State.VERIFYING)


def started(model_id: str) -> control.StartReleaseRequest:
    return control.StartReleaseRequest(machine.TENANT, machine.LINE, model_id, "ann")


async def test_while_the_api_is_away_the_release_waits_and_says_so(platform: platforms.Platform) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        new = platform.publish_model("new")
        safety = await platform.reach(new, State.SAFETY)
        with platform.plane.paused("kube-apiserver"):
            platform.visit(safety, {old: 0.3, new: 0.9}, 60)
            await platform.until(lambda: "The Kubernetes API is away" in platform.head().waits_for)
            assert (platform.head().id, platform.head().state) == (safety.id, State.SAFETY)
            assert weights(platform.head()) == weights(safety)
        release = await platform.reach(new, State.EVIDENCE)
        assert release.waits_for == ""
        platform.visit(release, {old: 0.3, new: 0.9}, 260)
        assert (await platform.reach(new, *releases.FINAL_STATES)).state is State.PROMOTED


async def test_what_is_deleted_or_edited_by_hand_under_a_release_comes_back(platform: platforms.Platform) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        new = platform.publish_model("new")
        release = await platform.reach(new, State.SAFETY)
        where = ("-n", platform.namespace)
        platform.plane.kubectl("delete", "deployment", "shop-policy-support-b", *where)
        platform.plane.kubectl("scale", "deployment", "shop-policy-support-a", "--replicas=0", *where)
        await platform.until(lambda: [one.status.ready_replicas for one in platform.deployments().values()] == [2, 2])
        platform.visit(release, {old: 0.3, new: 0.9}, 60)
        release = await platform.reach(new, State.EVIDENCE)
        assert [move.to_state for move in release.history].count(State.VERIFYING) == 1


async def test_of_two_controllers_one_acts_and_the_other_one_takes_over(platform: platforms.Platform) -> None:
    async with contextlib.AsyncExitStack() as first_life:
        first = await first_life.enter_async_context(platform.rollout())
        old = await adopted(platform, first)
        async with platform.rollout() as second:
            new = platform.publish_model("new")
            safety = await platform.reach(new, State.SAFETY)
            await first_life.aclose()
            platform.visit(safety, {old: 0.3, new: 0.9}, 60)
            release = await platform.reach(new, State.EVIDENCE)
            assert release.generation > safety.generation
            assert (await second.list_releases(listed()))[0].id == release.id
        assert len(platform.pods.seen) == 4


def listed() -> control.ListReleasesRequest:
    return control.ListReleasesRequest(machine.TENANT, machine.LINE)


@pytest.mark.parametrize(
    "at", [f"{point}:{nth}" for point in WALKED for nth in ((1,) if point == RELEASED else (1, 2))]
)
async def test_a_controller_killed_at_any_step_ends_its_release_as_one(platform: platforms.Platform, at: str) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        if at.startswith(RELEASED):  # then there is something to be given back
            before = platform.publish_model("before")
            assert (await canary(platform, before, {old: 0.9, before: 0.1})).state is State.ROLLED_BACK
    pods = len(platform.pods.seen)
    new = platform.publish_model("new")
    # what is to be given back, the candidate's start, its states: somewhere there it dies
    process = await dying(platform, at)
    died = asyncio.create_task(process.wait())
    while not died.done():
        if platform.head().candidate_id == new and platform.head().state is State.SAFETY:
            platform.visit(platform.head(), {old: 0.3, new: 0.9}, 60)
        await asyncio.wait([died], timeout=1.0)
    assert died.result() == -signal.SIGKILL
    async with platform.rollout():
        release = await platform.reach(new, State.SAFETY, State.EVIDENCE)
        if release.state is State.SAFETY:
            platform.visit(release, {old: 0.3, new: 0.9}, 60)
        release = await platform.reach(new, State.EVIDENCE)
        platform.visit(release, {old: 0.3, new: 0.9}, 260)
        promoted = await platform.reach(new, *releases.FINAL_STATES)
        await platform.until(lambda: platform.deployments().keys() == {old, new})
    assert promoted.state is State.PROMOTED
    assert len({record.id for record in platform.records() if record.candidate_id == new}) == 1
    revisions = [record.revision for record in platform.records()]
    assert len(revisions) == len(set(revisions))
    assert len(platform.pods.seen) == pods + 2


async def dying(platform: platforms.Platform, at: str) -> asyncio.subprocess.Process:
    """A controller of its own that is killed there."""
    config = platform.rollout_settings().model_dump(mode="json", exclude_none=True)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in config.items() if not isinstance(value, bool)]
    environment = {**os.environ, failpoints.VARIABLE: at}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trimtab.cli.app", "rollout", *flags), env=environment
    )
