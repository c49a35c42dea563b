"""Objects that tests give to a cluster."""

from collections.abc import Mapping
from typing import Any

Manifest = dict[str, Any]


def deployment(
    name: str,
    image: str = "example.test/app:1",
    replicas: int = 2,
    *,
    annotations: Mapping[str, str] | None = None,
    container: Mapping[str, Any] | None = None,
    pod: Mapping[str, Any] | None = None,
) -> Manifest:
    """annotations: of its pods. container, pod: what else their specifications say."""
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            # old pods stay until new ones are ready
            "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": labels, "annotations": dict(annotations or {})},
                "spec": {"containers": [{"name": "app", "image": image, **(container or {})}], **(pod or {})},
            },
        },
    }


def service(name: str, port: int) -> Manifest:
    """Of the pods of the deployment that is called so."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": [{"port": port}]},
    }
