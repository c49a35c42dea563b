"""Images of the processes that the chart runs, as `docker/service.Dockerfile` builds them; and torch in their pods.

    python -m tests.kubernetes.services     # builds those that are not there yet

The processes that compute have an image without torch here, and torch is six gigabytes of a volume that pods only read:
that of the environment that runs the tests. The cluster gives it to their pods, by a policy of its own: chart and
Dockerfile say nothing of it. What the image has comes first; only what it lacks is found in the volume.
"""

import pathlib
import re
import sys
import sysconfig

from tests.deploy import charts
from tests.kubernetes import images
from tests.kubernetes.manifests import Manifest

from trimtab.cli import app

COMPUTE = ("policy", "reward", "trainer")
# Of the chart's components, those that run one of these images.
_COMPONENTS = (*COMPUTE, "trainer-job")
REGISTRY, TAG = "localhost", "0.1.0"
_DOCKERFILE = charts.ROOT / "docker/service.Dockerfile"
_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
_PACKAGES = pathlib.Path(sysconfig.get_path("purelib"))
MOUNTED = "/opt/machine"
_SEARCHED = f"/opt/trimtab/lib/{_PYTHON}/site-packages:{MOUNTED}"


def name(process: str) -> str:
    return f"{REGISTRY}/trimtab-{process}:{TAG}"


def image(process: str) -> images.Image:
    sent = re.findall(r"^!(.*)$", (charts.ROOT / ".dockerignore").read_text(), re.M)
    without = "torch" if process in COMPUTE else ""
    return images.Image(name(process), _DOCKERFILE, charts.ROOT, sent, {"EXTRA": process}, without)


def are_built() -> bool:
    """Whether all of them are there, as the code is now."""
    return all(image(process).is_built() for process in app.PROCESSES)


def torch(namespace: str) -> list[Manifest]:
    """What makes the cluster give torch to pods of this namespace that compute."""
    volume = f"{namespace}-torch"
    same = {"accessModes": ["ReadOnlyMany"], "storageClassName": "of-this-machine"}
    room = {"storage": "10Gi"}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {**same, "capacity": room, "hostPath": {"path": str(_PACKAGES), "type": "Directory"}},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "torch", "namespace": namespace},
            "spec": {**same, "volumeName": volume, "resources": {"requests": room}},
        },
        _policy(namespace),
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": volume},
            "spec": {"policyName": volume},
        },
    ]


def _policy(namespace: str) -> Manifest:
    component = "app.kubernetes.io/component"
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": f"{namespace}-torch"},
        "spec": {
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "objectSelector": {
                    "matchExpressions": [{"key": component, "operator": "In", "values": list(_COMPONENTS)}]
                },
                "resourceRules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
                ],
            },
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": _MUTATION}}],
        },
    }


# A list of containers is merged by their names.
_MUTATION = f"""
Object{{spec: Object.spec{{
  volumes: [Object.spec.volumes{{name: "torch", persistentVolumeClaim:
    Object.spec.volumes.persistentVolumeClaim{{claimName: "torch", readOnly: true}}}}],
  containers: object.spec.containers.map(one, Object.spec.containers{{
    name: one.name,
    env: [Object.spec.containers.env{{name: "PYTHONPATH", value: "{_SEARCHED}"}}],
    volumeMounts: [Object.spec.containers.volumeMounts{{name: "torch", mountPath: "{MOUNTED}", readOnly: true}}]
  }})
}}}}
"""


def main() -> None:
    for process in app.PROCESSES:
        image(process).archive()


if __name__ == "__main__":
    main()
