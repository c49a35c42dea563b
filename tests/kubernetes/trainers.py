"""Trainers as pods: the chart's, and a second one beside it that nobody should make, each spoken to by itself."""

import asyncio
import contextlib
import copy
import fcntl
import json
import os
import pathlib
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

from kubernetes import client
from tests import timing
from tests.faults import reading
from tests.kubernetes import installed

import trimtab_client
from trimtab.bus import connect, topics
from trimtab.core import models, runs
from trimtab.rpc import secrets
from trimtab.wire import calls

LEASE_S = 5.0
_SECOND = "second"
_GRPC = 50051
_WITHIN_S = 5 * timing.PATIENCE_S
_Said = TypeVar("_Said")


def main_process(pod: client.V1Pod, process: str) -> int:
    """The machine's number of the process of ours in a pod; it has its name as an argument."""
    for group in pathlib.Path("/proc").glob("[0-9]*/cgroup"):
        with contextlib.suppress(OSError):
            words = group.with_name("cmdline").read_bytes().split(b"\0")
            if f"pod{pod.metadata.uid}" in group.read_text() and process.encode() in words:
                return int(group.parent.name)
    raise AssertionError(f"pod {pod.metadata.name} has no process `{process}`")


class Trainer:
    """One pod of a trainer. instance: of the installation that its labels say it is of."""

    def __init__(self, platform: installed.Installed, instance: str) -> None:
        selector = f"app.kubernetes.io/component=trainer,app.kubernetes.io/instance={instance}"
        core = client.CoreV1Api(platform.plane.client)
        found = core.list_namespaced_pod(installed.NAMESPACE, label_selector=selector).items
        (pod,) = [one for one in found if one.metadata.deletion_timestamp is None]
        self._address = f"{pod.status.pod_ip}:{_GRPC}"
        self._token = secrets.load(platform.folder / "secrets.toml").internal_token
        self._process = main_process(pod, "trainer")
        self.name = pod.metadata.name

    def stop(self) -> None:
        os.kill(self._process, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._process, signal.SIGCONT)

    def all_runs(self) -> Sequence[runs.Run]:
        """Newest first."""
        wanted = runs.ListRunsRequest(installed.TENANT, installed.LINE)
        return self._ask(lambda to: to.list_runs(wanted, timeout_s=timing.PATIENCE_S))

    def start(self, spec: runs.RunSpec) -> str:
        """The run's id."""
        wanted = runs.StartRunRequest(spec, actor="ann")
        return self._ask(lambda to: to.start_run(wanted, timeout_s=timing.PATIENCE_S)).id

    def succeeded(self, run_id: str) -> bool:
        (run,) = [one for one in self.all_runs() if one.id == run_id]
        assert run.state not in (runs.RunState.FAILED, runs.RunState.CANCELLED), run.problem
        time.sleep(0.5)
        return run.state is runs.RunState.SUCCEEDED

    def until_succeeded(self, run_id: str) -> None:
        timing.until(lambda: self.succeeded(run_id), f"{run_id} of {self.name}", within_s=_WITHIN_S)

    def _ask(self, act: Callable[[calls.TrainerCalls], Awaitable[_Said]]) -> _Said:
        async def asked() -> _Said:
            async with trimtab_client.connect(self._address, self._token) as channel:
                return await act(calls.TrainerCalls(channel))

        return asyncio.run(asked())


@contextlib.contextmanager
def two(platform: installed.Installed) -> Iterator[tuple[Trainer, Trainer]]:
    """The chart's trainer and a second one with a state of its own, both with short leases, and ended by nobody while
    they stand still; the second one is gone afterwards."""
    ours = f"deployment/{installed.RELEASE}-trainer"
    changed = {"name": "trainer", "env": [{"name": "TRIMTAB_LEASE_S", "value": str(LEASE_S)}], "livenessProbe": None}
    patch = {"spec": {"template": {"spec": {"containers": [changed]}}}}
    platform.kubectl("patch", ours, f"--patch={json.dumps(patch)}")
    second = _second(json.loads(platform.kubectl("get", ours, "--output=json")))
    platform.plane.apply(second)
    name = f"deployment/{second['metadata']['name']}"
    try:
        for one in (ours, name):
            platform.kubectl("rollout", "status", one, f"--timeout={_WITHIN_S:.0f}s")
        yield Trainer(platform, installed.RELEASE), Trainer(platform, _SECOND)
    finally:
        platform.kubectl("delete", name, "--wait=true")
        platform.kubectl("rollout", "undo", ours)
        platform.kubectl("rollout", "status", ours, f"--timeout={_WITHIN_S:.0f}s")


def _second(deployment: dict[str, Any]) -> dict[str, Any]:
    """Of no Service, and with a folder of its own where the chart's has a claim."""
    made = copy.deepcopy(deployment)
    spec = made["spec"]
    for labels in (spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]):
        labels["app.kubernetes.io/instance"] = _SECOND
    for volume in spec["template"]["spec"]["volumes"]:
        if volume["name"] == "state":
            del volume["persistentVolumeClaim"]
            volume["emptyDir"] = {}
    about = {"name": f"{_SECOND}-trainer", "namespace": installed.NAMESPACE}
    return {"apiVersion": made["apiVersion"], "kind": made["kind"], "metadata": about, "spec": spec}


def stop_when_published(platform: installed.Installed, trainer: Trainer) -> None:
    """Stops it as soon as the registry has what it made, which is a moment before anybody is told.

    Not while it holds the line's turn in the registry, which nobody else would have then.
    """
    (manifests,) = platform.folder.glob("volumes/*/manifests")  # a claim gets whichever volume fits it
    before, give_up_at = set(manifests.iterdir()), time.monotonic() + _WITHIN_S
    while not [one for one in manifests.iterdir() if one not in before and not one.name.startswith(".")]:
        assert time.monotonic() < give_up_at, f"{trainer.name} published nothing"
        time.sleep(0.0005)
    (turn,) = manifests.parent.glob("generations/*/*.lock")
    with turn.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        trainer.stop()


def announced(platform: installed.Installed) -> list[models.PublishedModel]:
    """All that trainers have announced, in the order of the topic."""
    with contextlib.closing(connect.open_log(platform.log_url)) as log:
        return reading.decoded(log, topics.MODELS, models.PublishedModel)


def counted(told: Sequence[models.PublishedModel]) -> list[models.PublishedModel]:
    """Of announcements those that readers count: under no lease older than one before them."""
    newest, found = 0, []
    for one in told:
        if one.generation >= newest:
            found.append(one)
        newest = max(newest, one.generation)
    return found
