"""A rollout controller over a real control plane: the real log, ledger and registry, and pods that describe themselves.

The pods are fake and run nothing, but their addresses are this machine's own: a server listens at each of them and says
what a policy process would say. Users are records of completions and thumbs (`tests.services.rollout.conftest`).
"""

import asyncio
import contextlib
import json
import os
import pathlib
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc.aio
import yaml
from kubernetes import client
from tests import timing
from tests.kubernetes import cluster
from tests.services.rollout import conftest as machine
from tests.services.rollout import describing_policy

from trimtab.rollout import settings as rollout_settings
from trimtab.rollout.cluster import template

PORT, INSTANCE = 9000, "shop"
WRONG = "0" * 64
# So that a test can say what becomes of a pod before it is ready.
_READY_AFTER = "1s"


@contextlib.contextmanager
def control_plane() -> Iterator[cluster.ControlPlane]:
    """Its pods have addresses of this machine that no other one's have."""
    with cluster.control_plane(pods=f"127.{100 + os.getpid() % 100}.{os.getpid() // 100 % 250}.0/24") as plane:
        yield plane


class Platform(machine.Platform):
    """Its policies are pods of a namespace of its own."""

    def __init__(self, folder: pathlib.Path, plane: cluster.ControlPlane) -> None:
        super().__init__(folder)
        self.plane = plane
        self.namespace = f"test-{uuid.uuid4().hex[:8]}"
        plane.kubectl("create", "namespace", self.namespace)
        wait = ("wait", "-n", self.namespace, "--for=create", "serviceaccount/default")
        plane.kubectl(*wait, f"--timeout={timing.PATIENCE_S:.0f}s")
        self.template = folder / "policy.yaml"
        policy = {
            "name": "policy",
            "image": "example.test/policy:1",
            "ports": [{"name": "grpc", "containerPort": PORT}],
        }
        about = {"annotations": {"trimtab.test/ready-after": _READY_AFTER}}
        spec = {"replicas": 2, "template": {"metadata": about, "spec": {"containers": [policy]}}}
        self.template.write_text(yaml.safe_dump(spec))
        self.pods = Pods(plane, self.namespace, folder / "claims")

    def rollout_settings(self) -> rollout_settings.RolloutSettings:
        return rollout_settings.RolloutSettings(
            **self.shared,
            ledger_address=self.ledger_address,
            namespace=self.namespace,
            policy_template=self.template,
            instance=INSTANCE,
            kubeconfig=self.plane.kubeconfig,
            look_every_s=0.2,
            lease_s=3.0,
        )

    def deployments(self) -> dict[str, Any]:
        """By the policy that each serves."""
        found = client.AppsV1Api(self.plane.client).list_namespaced_deployment(self.namespace)
        return {template.served_by(one): one for one in found.items}

    def running(self, model_id: str) -> bool:
        return model_id in self.deployments()

    def events(self) -> list[Any]:
        """Of releases, as they were told."""
        found = client.CoreV1Api(self.plane.client).list_namespaced_event(
            self.namespace, field_selector="involvedObject.kind=Deployment"
        )
        mine = [one for one in found.items if one.reporting_component == "trimtab-rollout"]
        return sorted(mine, key=lambda one: one.event_time)


class Pods:
    """The servers of a namespace's pods, each for as long as its pod is there and its containers run.

    outcomes: what is to become of the pods of a policy (`stages.yaml`). lies: names of pods, or "next" for the next
    that comes, that claim to have loaded other bytes.
    """

    def __init__(self, plane: cluster.ControlPlane, namespace: str, claims: pathlib.Path) -> None:
        self._core = client.CoreV1Api(plane.client)
        self._namespace = namespace
        self._claims = claims
        self._servers: dict[str, grpc.aio.Server] = {}
        self.outcomes: dict[str, str] = {}
        self.lies: set[str] = set()
        self.seen: list[str] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for server in self._servers.values():
                await server.stop(None)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(client.ApiException, OSError):
                await self._look()
            await asyncio.sleep(0.1)

    async def _look(self) -> None:
        found = await asyncio.to_thread(self._core.list_namespaced_pod, self._namespace, _request_timeout=5.0)
        there = {pod.metadata.name: pod for pod in found.items}
        for name in self._servers.keys() - there.keys():
            await self._servers.pop(name).stop(None)
        for name, pod in there.items():
            policy = (pod.metadata.annotations or {}).get(template.POLICY_ID, "")
            if name in self._servers or not pod.status.pod_ip or not policy:
                continue
            if policy in self.outcomes:
                await asyncio.to_thread(self._decide, name, self.outcomes[policy])
            self.seen.append(name)
            self._servers[name] = await describing_policy.started(
                policy, self._claim(name, policy), f"{pod.status.pod_ip}:{PORT}"
            )

    def _decide(self, name: str, outcome: str) -> None:
        about = {"metadata": {"annotations": {"trimtab.test/outcome": outcome}}}
        self._core.patch_namespaced_pod(name, self._namespace, about, _request_timeout=5.0)

    def _claim(self, name: str, policy: str) -> str:
        if "next" in self.lies:
            self.lies = self.lies - {"next"} | {name}
        return WRONG if name in self.lies else str(json.loads((self._claims / f"{policy}.json").read_text()))
