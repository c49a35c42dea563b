"""Policies as pods: a `backend.Backend` that keeps a Deployment for each slot of a line, with its policy's Service.

Built by `rollout.app`. Everything is read from the cluster at every look: a controller that starts anew, an object that
somebody changed by hand or deleted, are the same to it. What was applied last is remembered only to save calls.
"""

from collections.abc import Sequence

from trimtab.core import failpoints
from trimtab.rollout import backend
from trimtab.rollout.cluster import api, reading, template


class ClusterBackend:
    def __init__(self, cluster: api.Api, shape: template.Template) -> None:
        self._api = cluster
        self._template = shape
        # By Deployment: what was applied, and the generation that it had then.
        self._applied: dict[str, tuple[template.Manifest, int]] = {}

    def ensure(self, wanted: backend.Wanted) -> backend.ProcessStatus:
        try:
            return self._ensure(wanted)
        except api.Refused as problem:
            return backend.ProcessStatus("", healthy=False, problem=str(problem), complete=False)

    def _ensure(self, wanted: backend.Wanted) -> backend.ProcessStatus:
        labels = self._template.labels(wanted.line)
        there = self._api.deployments(labels)
        mine = next((one for one in there if template.served_by(one) == wanted.policy_id), None)
        slot = _slot(mine) if mine is not None else _free(there)
        if not slot:
            return backend.ProcessStatus("", healthy=False, problem=_no_room(there), complete=False)
        address = self._template.address(wanted.line, slot, wanted.policy_id)
        applied = self._apply(slot, wanted, mine)
        pods = self._api.pods({**labels, template.SLOT: slot})
        return reading.status(applied, pods, wanted.policy_id, address, self._template.port)

    def release(self, policy_id: str, line: str) -> None:
        for one in self._api.deployments(self._template.labels(line)):
            if template.served_by(one) == policy_id and one.metadata.deletion_timestamp is None:
                self._api.delete_deployment(one.metadata.name)
                self._applied.pop(one.metadata.name, None)

    def replace(self, replica: backend.Replica) -> None:
        self._api.delete_pod(replica.name)

    def _apply(self, slot: str, wanted: backend.Wanted, live: api.Deployment | None) -> api.Deployment:
        """The Deployment, applied anew where it is not as it was left."""
        manifest = self._template.deployment(slot, wanted)
        name = manifest["metadata"]["name"]
        if (
            live is not None
            and self._applied.get(name) == (manifest, live.metadata.generation)
            and _named(live, manifest)
        ):
            return live
        applied = self._api.apply_deployment(manifest)
        failpoints.reach("cluster.deployment_applied")
        if self._api.create_service(self._template.service(slot, wanted, applied)):
            failpoints.reach("cluster.service_created")
            self._applied[name] = (manifest, applied.metadata.generation)
        return applied


def _slot(deployment: api.Deployment) -> str:
    """Empty while it is being deleted: what is wanted again comes into a slot once that is free."""
    if deployment.metadata.deletion_timestamp is not None:
        return ""
    return str(deployment.metadata.labels.get(template.SLOT, ""))


def _free(there: Sequence[api.Deployment]) -> str:
    taken = {one.metadata.labels.get(template.SLOT) for one in there}
    return next((slot for slot in template.SLOTS if slot not in taken), "")


def _no_room(there: Sequence[api.Deployment]) -> str:
    held = ", ".join(f"{one.metadata.name} ({template.served_by(one)[:12]})" for one in there)
    return f"Both slots are taken until one is given back: {held}"


def _named(live: api.Deployment, manifest: template.Manifest) -> bool:
    """Whether it is labelled as wanted: labels and annotations are no part of a generation."""
    about, wanted = live.metadata, manifest["metadata"]
    labelled = wanted["labels"].items() <= (about.labels or {}).items()
    return bool(labelled and wanted["annotations"].items() <= (about.annotations or {}).items())
