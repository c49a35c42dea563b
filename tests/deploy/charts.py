"""The chart as Helm renders it: documents, and what tests ask of them.

Helm is $HELM, the one on the PATH, or the one that `tests.kubernetes.tools` has built.
"""

import dataclasses
import functools
import os
import pathlib
import shutil
import subprocess
from typing import Any

import yaml
from tests.kubernetes.tools import binaries

ROOT = pathlib.Path(__file__).parents[2]
CHART = ROOT / "deploy/charts/trimtab"
VALUES = ROOT / "deploy/values"
RELEASE = "prod"
Document = dict[str, Any]
# What people install: values files in the order they are given. The last has all that the others leave out.
INSTALLATIONS = {
    "small": (VALUES / "small.yaml",),
    "first release": (VALUES / "small.yaml", VALUES / "first-release.yaml"),
    "production": (VALUES / "production.yaml",),
    "gpu": (VALUES / "production.yaml", VALUES / "gpu.yaml"),
    "gpu on one node": (VALUES / "small.yaml", VALUES / "gpu.yaml"),
    "everything": (VALUES / "small.yaml", pathlib.Path(__file__).parent / "everything.yaml"),
}
# Secrets that a person makes, or the Strimzi operator does: nothing in the chart.
SECRETS_OF_OTHERS = {
    *("trimtab-secrets", "trimtab-postgres", "trimtab-s3", "trimtab", "trimtab-kafka-cluster-ca-cert"),
    *("kafka-login", "kafka-ca"),
}


@functools.cache
def helm() -> str:
    """The program; an error in words where there is none."""
    if found := os.environ.get("HELM") or shutil.which("helm"):
        return found
    if not binaries.are_built(binaries.CONTROL_PLANE):
        raise RuntimeError(
            "The tests of the chart need Helm 4: `make kubernetes-test` builds one, or name yours as $HELM."
        )
    return binaries.program(binaries.CONTROL_PLANE, "helm")


def ran(*words: str | pathlib.Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm(), *map(str, words)], capture_output=True, text=True, timeout=120, check=False)


@functools.cache
def rendered(name: str, *flags: str) -> tuple[Document, ...]:
    """The documents of an installation."""
    files = [f"--values={path}" for path in INSTALLATIONS[name]]
    done = ran("template", RELEASE, CHART, "--namespace=models", *files, *flags)
    assert done.returncode == 0, done.stderr
    return tuple(document for document in yaml.safe_load_all(done.stdout) if document)


def of_kind(documents: tuple[Document, ...], *kinds: str) -> dict[str, Document]:
    """By name."""
    found = [document for document in documents if document["kind"] in kinds]
    return {document["metadata"]["name"]: document for document in found}


@dataclasses.dataclass(frozen=True)
class Pod:
    """A pod that comes of the chart. owner: the kind that makes it; "" for the template the controller fills in."""

    name: str
    owner: str
    labels: dict[str, str]
    spec: Document

    @property
    def component(self) -> str:
        return self.labels["app.kubernetes.io/component"]

    @property
    def containers(self) -> list[Document]:
        """All of them, in the order they start."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def lasting(self) -> list[Document]:
        """Those that run for as long as the pod serves."""
        if self.owner == "Job":
            return []
        return [one for one in self.spec.get("initContainers", []) if one.get("restartPolicy")] + self.spec[
            "containers"
        ]


def pods(documents: tuple[Document, ...]) -> dict[str, Pod]:
    """By component: of Deployments, Jobs and CronJobs, and of the template in a ConfigMap."""
    found = {}
    for document in documents:
        kind, name, template = document["kind"], document["metadata"]["name"], None
        if kind in ("Deployment", "Job"):
            template = document["spec"]["template"]
        elif kind == "CronJob":
            kind, template = "Job", document["spec"]["jobTemplate"]["spec"]["template"]
        elif "policy.yaml" in document.get("data", {}):
            kind, template = "", yaml.safe_load(document["data"]["policy.yaml"])["template"]
        if template is not None:
            pod = Pod(name, kind, template["metadata"]["labels"], template["spec"])
            found[pod.component] = pod
    return found


def written_out(documents: tuple[Document, ...]) -> list[Document]:
    """The documents, and with them what others make of the template in a ConfigMap."""
    found = list(documents)
    for document in documents:
        if "policy.yaml" in document.get("data", {}):
            spec = yaml.safe_load(document["data"]["policy.yaml"])
            spec["selector"] = {"matchLabels": spec["template"]["metadata"]["labels"]}
            found.append({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "policy"}, "spec": spec})
    return found


def settings(documents: tuple[Document, ...]) -> dict[str, str]:
    """What every process is told by its environment."""
    told: dict[str, str] = of_kind(documents, "ConfigMap")[f"{RELEASE}-settings"]["data"]
    return told
