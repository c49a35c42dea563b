"""The Python that runs the tests, in pods: its packages with torch are six gigabytes, too many for an image of each
test.

Interpreter and virtual environment are volumes that pods only read. They are persistent volumes, since the strictest
standard for pods allows no folder of the machine otherwise. The image has to be a Debian of the machine's release.
"""

import sys
import sysconfig
from typing import Any

from tests.kubernetes.manifests import Manifest

# What is mounted where in a pod.
_FOLDERS = {"python": (sys.base_prefix, "/opt/python"), "packages": (sysconfig.get_path("purelib"), "/opt/packages")}
PYTHON = f"/opt/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
_ENVIRONMENT = {
    "PYTHONHOME": "/opt/python",
    "PYTHONPATH": "/opt/packages",
    "LD_LIBRARY_PATH": "/opt/python/lib",
    "PYTHONDONTWRITEBYTECODE": "1",
    "HOME": "/tmp",
}


def volumes(namespace: str) -> list[Manifest]:
    """Those that pods of this namespace mount."""
    return [manifest for name in _FOLDERS for manifest in _volume(name, namespace)]


def mount(pod: dict[str, Any]) -> None:
    """Changes a pod's specification: each of its containers finds the interpreter at `PYTHON`, and may write to
    /tmp."""
    pod["volumes"] = [*pod.get("volumes", []), {"name": "tmp", "emptyDir": {}}]
    pod["volumes"] += [
        {"name": name, "persistentVolumeClaim": {"claimName": name, "readOnly": True}} for name in _FOLDERS
    ]
    for container in pod["containers"]:
        mounts = [{"name": name, "mountPath": path, "readOnly": True} for name, (_, path) in _FOLDERS.items()]
        container["volumeMounts"] = [*container.get("volumeMounts", []), *mounts, {"name": "tmp", "mountPath": "/tmp"}]
        variables = [{"name": name, "value": value} for name, value in _ENVIRONMENT.items()]
        container["env"] = [*container.get("env", []), *variables]


def _volume(name: str, namespace: str) -> list[Manifest]:
    room = {"storage": "10Gi"}
    same = {"accessModes": ["ReadOnlyMany"], "storageClassName": "of-this-machine"}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{namespace}-{name}"},
        "spec": {**same, "capacity": room, "hostPath": {"path": _FOLDERS[name][0], "type": "Directory"}},
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**same, "volumeName": f"{namespace}-{name}", "resources": {"requests": room}},
    }
    return [volume, claim]
