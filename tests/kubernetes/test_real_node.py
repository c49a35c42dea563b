"""Pods that run for real: reached by address and by name, asked whether they are ready, replaced, moved out."""

import http.client
import http.server
import pathlib
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client
from tests import timing
from tests.kubernetes import cluster, images, interpreter, manifests, node, processes

pytestmark = [pytest.mark.real_node, pytest.mark.kubernetes, pytest.mark.slow]
HERE = pathlib.Path(__file__).parent
IMAGE = "localhost/trimtab-test-app:1"
PORT = 8080


def app(name: str, replicas: int = 2, **environment: str) -> manifests.Manifest:
    """A deployment under the strictest of the standards for pods."""
    probe = {"httpGet": {"path": "/ready", "port": PORT}, "periodSeconds": 1}
    container = {
        "imagePullPolicy": "Never",
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "readinessProbe": probe,
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": 20,
    }
    return manifests.deployment(name, IMAGE, replicas, container=container, pod=pod)


@pytest.fixture(scope="module")
def plane() -> Iterator[cluster.ControlPlane]:
    with cluster.control_plane(fakes=()) as started:
        started.kubectl("label", "namespace", "default", "pod-security.kubernetes.io/enforce=restricted")
        yield started


@pytest.fixture(scope="module")
def real(plane: cluster.ControlPlane) -> Iterator[node.RealNode]:
    with node.real_node(plane) as started:
        started.load(images.Image(IMAGE, HERE / "app" / "Dockerfile", HERE, ["app/server.py"]).archive())
        yield started


@pytest.fixture
def core(plane: cluster.ControlPlane) -> client.CoreV1Api:
    return client.CoreV1Api(plane.client)


class Deployed:
    """A deployment with a Service, both gone with the test."""

    def __init__(self, plane: cluster.ControlPlane, name: str) -> None:
        self.name = name
        self._plane = plane
        self._apps, self._core = client.AppsV1Api(plane.client), client.CoreV1Api(plane.client)

    def deploy(self, replicas: int = 2, **environment: str) -> None:
        self._plane.apply(app(self.name, replicas, **environment), manifests.service(self.name, PORT))

    def ready(self) -> int:
        """Replicas of what was deployed last."""
        found = self._apps.read_namespaced_deployment(self.name, "default")
        current = found.status.observed_generation == found.metadata.generation
        updated = found.status.updated_replicas == found.status.replicas
        return (found.status.ready_replicas or 0) if current and updated else 0

    def await_ready(self, replicas: int = 2) -> None:
        timing.until(lambda: self.ready() == replicas, f"{replicas} replicas of {self.name}")

    def pods(self) -> list[client.V1Pod]:
        return list(self._core.list_namespaced_pod("default", label_selector=f"app={self.name}").items)

    def address(self) -> str:
        """Of its Service."""
        return str(self._core.read_namespaced_service(self.name, "default").spec.cluster_ip)

    def delete(self) -> None:
        self._plane.kubectl("delete", f"deployment/{self.name}", f"service/{self.name}")
        timing.until(lambda: not self.pods(), f"the end of {self.name}'s pods")


@pytest.fixture
def web(plane: cluster.ControlPlane, real: node.RealNode) -> Iterator[Deployed]:
    deployed = Deployed(plane, "web")
    deployed.deploy(DRAIN_S="3")
    deployed.await_ready()
    # the node hears of ready pods a moment after the deployment does
    timing.until(lambda: processes.answers(f"http://{deployed.address()}:{PORT}/"), "an answer of the Service")
    yield deployed
    deployed.delete()


def get(host: str, path: str = "/") -> str:
    with urllib.request.urlopen(f"http://{host}:{PORT}{path}", timeout=timing.PATIENCE_S) as answer:
        return str(answer.read().decode())


def test_a_service_shares_calls_among_its_pods(web: Deployed) -> None:
    names = {pod.metadata.name for pod in web.pods()}
    seen: set[str] = set()

    def all_seen() -> bool:
        seen.add(get(web.address()).split()[0])
        return seen == names

    timing.until(all_seen, "an answer of each pod")


def test_pods_reach_each_other_by_name_and_the_api_server_as_everywhere(web: Deployed) -> None:
    assert get(web.address(), f"/fetch?http://web.default.svc.cluster.local:{PORT}/").split()[1] == "1"
    assert get(web.address(), f"/fetch?http://web:{PORT}/").split()[1] == "1"
    assert '"gitVersion"' in get(web.address(), "/fetch?https://kubernetes.default.svc/version")


def test_pods_reach_what_listens_on_the_machine_s_address_of_their_bridge(web: Deployed) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"from the machine")

        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.HTTPServer((node.ADDRESS, 0), Handler) as listening:
        threading.Thread(target=listening.handle_request).start()
        url = f"http://{node.ADDRESS}:{listening.server_port}/"
        assert get(web.address(), f"/fetch?{url}") == "from the machine"


def test_what_a_pod_says_can_be_read_and_a_program_be_run_in_it(
    web: Deployed, core: client.CoreV1Api, plane: cluster.ControlPlane
) -> None:
    pod = web.pods()[0].metadata.name
    assert core.read_namespaced_pod_log(pod, "default") == "serving version 1\n"
    assert plane.kubectl("exec", pod, "--", "python", "-c", "import os; print(os.getuid())") == "65532\n"


def test_one_whose_probe_says_no_gets_no_calls(plane: cluster.ControlPlane, real: node.RealNode) -> None:
    shy = Deployed(plane, "shy")
    shy.deploy(replicas=1, READY="no")
    timing.until(lambda: [pod.status.phase for pod in shy.pods()] == ["Running"], "the pod")
    slices = client.DiscoveryV1Api(plane.client)

    def conditions() -> list[Any]:
        found = slices.list_namespaced_endpoint_slice("default", label_selector="kubernetes.io/service-name=shy").items
        return [endpoint.conditions.ready for one in found for endpoint in one.endpoints or []]

    timing.until(lambda: conditions() == [False], "an endpoint that is not ready")
    shy.deploy(replicas=1)
    shy.await_ready(1)
    timing.until(lambda: conditions() == [True], "an endpoint that is ready")
    shy.delete()


def test_a_rolling_update_loses_no_call(web: Deployed) -> None:
    address, stop = web.address(), threading.Event()
    answers: list[str] = []
    failures: list[Exception] = []

    def call() -> None:
        while not stop.is_set():
            try:
                answers.append(get(address).split()[1])
            except (OSError, http.client.HTTPException) as failure:
                failures.append(failure)
            stop.wait(0.01)

    calling = threading.Thread(target=call)
    calling.start()
    try:
        old = {pod.metadata.name for pod in web.pods()}
        web.deploy(DRAIN_S="3", VERSION="2")
        web.await_ready()
        timing.until(lambda: not old & {pod.metadata.name for pod in web.pods()}, "the end of the old pods")
    finally:
        stop.set()
        calling.join()
    assert failures == []
    assert set(answers) == {"1", "2"}
    assert get(address).split()[1] == "2"


def test_a_drained_node_has_no_pods_until_it_takes_them_again(
    web: Deployed, plane: cluster.ControlPlane, core: client.CoreV1Api
) -> None:
    before = {pod.metadata.name for pod in web.pods()}
    plane.kubectl("drain", cluster.REAL_NODE, "--ignore-daemonsets", "--delete-emptydir-data")
    timing.until(lambda: not before & {pod.metadata.name for pod in web.pods()}, "the end of its pods")
    assert {pod.status.phase for pod in web.pods()} == {"Pending"}
    plane.kubectl("uncordon", cluster.REAL_NODE)
    web.await_ready()


def test_torch_without_an_image_of_six_gigabytes(plane: cluster.ControlPlane, real: node.RealNode) -> None:
    core = client.CoreV1Api(plane.client)
    plane.apply(*interpreter.volumes("default"))
    job = app("torch", 1)["spec"]["template"]["spec"]
    (container,) = job["containers"]
    del container["readinessProbe"]
    computes = "import torch; print(int((torch.ones(8, 8) @ torch.ones(8, 8)).sum()))"
    container["command"] = [interpreter.PYTHON, "-c", computes]
    container["resources"] = {"requests": {"memory": "512Mi"}, "limits": {"memory": "2Gi"}}
    interpreter.mount(job)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "torch", "namespace": "default"}, "spec": job}
    plane.apply({**pod, "spec": {**job, "restartPolicy": "Never"}})

    def phase() -> str:
        return str(core.read_namespaced_pod("torch", "default").status.phase)

    timing.until(lambda: phase() in ("Succeeded", "Failed"), "the end of the pod", within_s=5 * timing.PATIENCE_S)
    assert core.read_namespaced_pod_log("torch", "default") == "512\n"
    assert phase() == "Succeeded"
    plane.kubectl("delete", "pod/torch")
