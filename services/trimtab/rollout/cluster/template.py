"""What the objects of a slot are: pure, from the operator's template and what is wanted. Called by `cluster.pods`.

The template is a YAML file that the chart makes: the `spec` of a Deployment, whose pods have a container `policy` with
a port named `grpc`. In its strings `{policy_id}` and `{line}` are filled in; names, labels and a selector are added.
Fields that it leaves out are whoever's they are: without `replicas` the number of pods is an autoscaler's.
"""

import hashlib
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import yaml

from trimtab.core import errors
from trimtab.rollout import backend
from trimtab.rollout.cluster import api

SLOTS = ("a", "b")
CONTAINER, PORT = "policy", "grpc"
_DOMAIN = "trimtab.dev"
LINE, SLOT, ROLE, POLICY = f"{_DOMAIN}/line", f"{_DOMAIN}/slot", f"{_DOMAIN}/role", f"{_DOMAIN}/policy"
POLICY_ID, RELEASE_ID, LINE_NAME = f"{_DOMAIN}/policy-id", f"{_DOMAIN}/release-id", f"{_DOMAIN}/line-name"
# Of a label's value, and in a name; an id has 64 characters.
_SHORT, _NAMED = 40, 12
_LONGEST_LINE = 20
Manifest = dict[str, Any]


class Template:
    """instance: the installation's name, of which all objects' names begin with."""

    def __init__(self, instance: str, namespace: str, spec: Mapping[str, Any]) -> None:
        self._instance = instance
        self._namespace = namespace
        self._spec = spec
        self.port = _port(spec)

    def labels(self, line: str) -> dict[str, str]:
        """Of all objects of a line."""
        return {
            "app.kubernetes.io/name": "trimtab",
            "app.kubernetes.io/instance": self._instance,
            "app.kubernetes.io/component": "policy",
            LINE: slug(line),
        }

    def name(self, line: str, slot: str) -> str:
        """Of a slot's Deployment."""
        return f"{self._instance}-policy-{slug(line)}-{slot}"

    def address(self, line: str, slot: str, policy_id: str) -> str:
        """Of all ready pods of a policy in a slot: clients take turns over them."""
        return f"dns:///{self._service_name(line, slot, policy_id)}.{self._namespace}.svc:{self.port}"

    def _service_name(self, line: str, slot: str, policy_id: str) -> str:
        """Of one policy alone: what is remembered of a name, for half a minute and more, would be of the one before."""
        return f"{self.name(line, slot)}-{policy_id[:_NAMED]}"

    def deployment(self, slot: str, wanted: backend.Wanted) -> Manifest:
        selector = {**self.labels(wanted.line), SLOT: slot}
        served = {POLICY: wanted.policy_id[:_SHORT]}
        spec = _filled(self._spec, wanted)
        about = spec["template"].setdefault("metadata", {})
        about["labels"] = {**about.get("labels", {}), **selector, **served}
        about["annotations"] = {**about.get("annotations", {}), POLICY_ID: wanted.policy_id, LINE_NAME: wanted.line}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": self.name(wanted.line, slot),
                "namespace": self._namespace,
                "labels": {**selector, **served, ROLE: wanted.role.value},
                "annotations": {
                    POLICY_ID: wanted.policy_id,
                    LINE_NAME: wanted.line,
                    RELEASE_ID: wanted.release_id,
                },
            },
            "spec": {**spec, "selector": {"matchLabels": selector}},
        }

    def service(self, slot: str, wanted: backend.Wanted, owner: api.Deployment) -> Manifest:
        """Headless, and only of pods of this very policy. It goes with the Deployment that is its owner."""
        labels = {**self.labels(wanted.line), SLOT: slot}
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": self._service_name(wanted.line, slot, wanted.policy_id),
                "namespace": self._namespace,
                "labels": labels,
                "ownerReferences": [
                    {
                        "apiVersion": "apps/v1",
                        "kind": "Deployment",
                        "name": owner.metadata.name,
                        "uid": owner.metadata.uid,
                    }
                ],
            },
            "spec": {
                "clusterIP": "None",
                "selector": {**labels, POLICY: wanted.policy_id[:_SHORT]},
                "ports": [{"name": PORT, "port": self.port, "targetPort": PORT}],
            },
        }


def load(path: pathlib.Path, instance: str, namespace: str) -> Template:
    """InvalidField says what is wrong with the file."""
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as problem:
        raise _wrong(path, f"cannot be read ({problem})", "give the YAML file that the chart makes") from problem
    try:
        return Template(instance, namespace, document)
    except (KeyError, TypeError, AttributeError) as problem:
        remedy = f"give a Deployment's `spec` with a `template` that has a container `{CONTAINER}`"
        raise _wrong(path, f"is no template of a policy ({problem!r})", remedy) from problem


def slug(line: str) -> str:
    """A line's name as a part of names in the cluster: its own where it can be, else one that no other line has."""
    plain = re.sub(r"[^a-z0-9]+", "-", line.lower()).strip("-")[:_LONGEST_LINE].strip("-")
    if plain == line:
        return plain
    return f"{plain}-{hashlib.sha256(line.encode()).hexdigest()[:8]}".lstrip("-")


def _filled(part: Any, wanted: backend.Wanted) -> Any:
    """A copy in which every string says what is served."""
    if isinstance(part, str):
        return wanted.fill(part)
    if isinstance(part, Mapping):
        return {name: _filled(value, wanted) for name, value in part.items()}
    return [_filled(one, wanted) for one in part] if isinstance(part, list) else part


def served_by(deployment: Any) -> str:
    """The id of the policy that a slot's Deployment serves."""
    for about in (deployment.metadata, deployment.spec.template.metadata):
        found = (about.annotations or {}).get(POLICY_ID)
        if found:
            return str(found)
    return ""


def _port(spec: Mapping[str, Any]) -> int:
    for container in spec["template"]["spec"]["containers"]:
        if container["name"] == CONTAINER:
            return next(int(port["containerPort"]) for port in container["ports"] if port["name"] == PORT)
    raise KeyError(CONTAINER)


def _wrong(path: pathlib.Path, problem: str, remedy: str) -> errors.InvalidField:
    return errors.InvalidField(str(path), problem, remedy)
