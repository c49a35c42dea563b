"""How a slot's pods are, in the words of the port: pure. Called by `cluster.pods`."""

from collections.abc import Iterator, Sequence
from typing import Any

from trimtab.rollout import backend
from trimtab.rollout.cluster import api, template

# Reasons of a container that waits and means no harm.
_ON_ITS_WAY = frozenset({"ContainerCreating", "PodInitializing"})
_WORDS = 300


def status(
    deployment: api.Deployment, pods: Sequence[api.Pod], policy_id: str, address: str, port: int
) -> backend.ProcessStatus:
    """Of a policy in its slot. Pods that end, and those of another policy that leave the slot, are not its own."""
    mine = [pod for pod in pods if _annotation(pod, template.POLICY_ID) == policy_id and _stays(pod)]
    ready = [pod for pod in mine if _is_ready(pod)]
    wanted = deployment.spec.replicas if deployment.spec.replicas is not None else 1
    complete = _settled(deployment, wanted) and len(ready) >= wanted > 0
    return backend.ProcessStatus(
        address=address,
        healthy=bool(ready),
        problem="" if complete else _problem(deployment, mine, f"{len(ready)} of {wanted} pods are ready"),
        restarts=sum(map(_restarts, mine)),
        complete=complete,
        replicas=tuple(
            backend.Replica(pod.metadata.name, f"{pod.status.pod_ip}:{port}", f"{pod.metadata.uid}/{_restarts(pod)}")
            for pod in ready
        ),
    )


def _settled(deployment: api.Deployment, wanted: int) -> bool:
    """Whether all that runs is of its newest specification."""
    now = deployment.status
    seen = (now.observed_generation or 0) >= deployment.metadata.generation
    return seen and (now.updated_replicas or 0) >= wanted and (now.replicas or 0) == (now.updated_replicas or 0)


def _problem(deployment: api.Deployment, pods: Sequence[api.Pod], otherwise: str) -> str:
    """What stands in the way, the cause before its consequences."""
    refused = _condition(deployment.status.conditions, "ReplicaFailure", "True")
    if refused is not None:
        return f"Its pods are not made: {refused.message[:_WORDS]}"
    found = next((words for pod in pods for words in _pod_problems(pod)), "")
    if found:
        return found
    stuck = _condition(deployment.status.conditions, "Progressing", "False")
    return f"{otherwise}: {stuck.message[:_WORDS]}" if stuck is not None else otherwise


def _pod_problems(pod: api.Pod) -> Iterator[str]:
    name = pod.metadata.name
    unplaced = _condition(pod.status.conditions, "PodScheduled", "False")
    if unplaced is not None:
        yield f"Pod {name} has no node: {(unplaced.message or unplaced.reason or 'it waits')[:_WORDS]}"
    if pod.status.phase == "Failed":
        yield f"Pod {name} failed: {(pod.status.message or pod.status.reason or 'no reason given')[:_WORDS]}"
    for container in _containers(pod):
        waiting, ended = container.state.waiting, container.last_state.terminated if container.last_state else None
        if waiting is not None and waiting.reason not in _ON_ITS_WAY:
            words = f"Container {container.name} of pod {name} waits: {waiting.reason}"
            if waiting.message:
                words = f"{words} ({waiting.message[:_WORDS]})"
            yield f"{words}; it ended with {_end(ended)}" if ended is not None else words
        elif container.state.terminated is not None and container.state.terminated.exit_code:
            yield f"Container {container.name} of pod {name} ended with {_end(container.state.terminated)}"


def _end(ended: Any) -> str:
    said = f", saying: {ended.message.strip()[-_WORDS:]}" if ended.message else ""
    return f"exit {ended.exit_code} ({ended.reason}){said}"


def _containers(pod: api.Pod) -> list[Any]:
    return [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]


def _restarts(pod: api.Pod) -> int:
    return sum(one.restart_count for one in _containers(pod))


def _is_ready(pod: api.Pod) -> bool:
    return bool(pod.status.pod_ip) and _condition(pod.status.conditions, "Ready", "True") is not None


def _stays(pod: api.Pod) -> bool:
    return pod.metadata.deletion_timestamp is None


def _annotation(pod: api.Pod, name: str) -> str:
    return str((pod.metadata.annotations or {}).get(name, ""))


def _condition(conditions: Sequence[Any] | None, kind: str, status: str) -> Any | None:
    return next((one for one in conditions or () if one.type == kind and one.status == status), None)
