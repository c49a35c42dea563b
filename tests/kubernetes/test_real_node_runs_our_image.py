"""A process of the chart as a real kubelet runs it, in the image that docker/service.Dockerfile builds.

Its brokers are away, which a process waits for: what is looked at is the pod around it.
"""

import json
import re
from collections.abc import Iterator

import pytest
from kubernetes import client
from tests import timing
from tests.deploy import charts
from tests.kubernetes import cluster, images, node

from trimtab.rpc import secrets

pytestmark = [pytest.mark.real_node, pytest.mark.kubernetes, pytest.mark.slow]
IMAGE = "localhost/trimtab-feedback:0.1.0"
DOCKERFILE = charts.ROOT / "docker/service.Dockerfile"
OF_IT = {charts.RELEASE, *(f"{charts.RELEASE}-{name}" for name in ("feedback", "settings", "lines"))}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cluster.ControlPlane]:
    """With a real node that has the image, and feedback's part of the chart."""
    sent = re.findall(r"^!(.*)$", (charts.ROOT / ".dockerignore").read_text(), re.M)
    file = tmp_path_factory.mktemp("secrets") / "secrets.toml"
    secrets.create(file, "acme")
    flags = ("--set=image.registry=localhost", "--set=image.pullPolicy=Never")
    documents = [one for one in charts.rendered("small", *flags) if one["metadata"]["name"] in OF_IT]
    with cluster.control_plane(fakes=()) as started, node.real_node(started) as real:
        started.kubectl("label", "namespace", "default", "pod-security.kubernetes.io/enforce=restricted")
        real.load(images.Image(IMAGE, DOCKERFILE, charts.ROOT, sent, {"EXTRA": "feedback"}).archive())
        started.kubectl("create", "secret", "generic", "trimtab-secrets", f"--from-file={file}")
        started.apply(*documents)
        yield started


@pytest.fixture(scope="module")
def pod(plane: cluster.ControlPlane) -> str:
    """The name of one that is ready."""
    core = client.CoreV1Api(plane.client)

    def ready() -> list[client.V1Pod]:
        found = core.list_namespaced_pod("default", label_selector="app.kubernetes.io/component=feedback").items
        return [one for one in found for status in one.status.container_statuses or [] if status.ready]

    timing.until(lambda: bool(ready()), "a pod that is ready", within_s=3 * timing.PATIENCE_S)
    return str(ready()[0].metadata.name)


def inside(plane: cluster.ControlPlane, pod: str, command: str) -> str:
    return plane.kubectl("exec", pod, "--", "sh", "-c", command)


def test_a_process_is_ready_by_its_probes_without_root_and_without_a_token(
    plane: cluster.ControlPlane, pod: str
) -> None:
    said = inside(
        plane, pod, "id -u; touch /here 2>&1; ls /var/run/secrets 2>&1; stat -Lc %a /etc/trimtab/secrets/*; true"
    )
    assert said.splitlines() == [
        "65532",
        "touch: cannot touch '/here': Read-only file system",
        "ls: cannot access '/var/run/secrets': No such file or directory",
        "440",
    ]


def test_the_image_has_what_its_process_needs_and_says_what_that_is(plane: cluster.ControlPlane, pod: str) -> None:
    for absent in ("torch", "kubernetes", "pip"):
        assert "No module named" in inside(plane, pod, f"python -c 'import {absent}' 2>&1; true")
    assert inside(plane, pod, "command -v gcc cc make; true") == ""
    assert "--log-url" in inside(plane, pod, "trimtab feedback --help")
    bill = json.loads(inside(plane, pod, "cat /usr/share/doc/trimtab/sbom.cdx.json"))
    named = {one["name"].lower() for one in bill["components"]}
    assert bill["bomFormat"] == "CycloneDX"
    assert {"grpcio", "kafka-python", "trimtab-client"} <= named and "torch" not in named
    listed = inside(plane, pod, "ls -d /opt/trimtab/lib/python3*/site-packages/*.dist-info").split()
    assert len(named) == len(listed) - 1, "all that is installed, beside trimtab itself"


def test_a_pod_that_is_deleted_drains_and_ends_by_itself(plane: cluster.ControlPlane, pod: str) -> None:
    said = plane.kubectl("logs", pod)
    assert '"event": "serving"' in said
    took = timing.until(lambda: "deleted" in plane.kubectl("delete", "pod", pod, "--wait=true"), "the end of the pod")
    (grace,) = {
        one["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        for one in charts.rendered("small")
        if one["metadata"]["name"] == f"{charts.RELEASE}-feedback" and one["kind"] == "Deployment"
    }
    assert took < grace, "it was killed at the end of its grace period"
