"""A control plane of its own: what fake pods come to, what two writers may do, and what is left of it afterwards."""

import datetime
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException
from tests import timing
from tests.kubernetes import cluster, processes
from tests.kubernetes.manifests import Manifest, deployment
from tests.kubernetes.tools import binaries

pytestmark = pytest.mark.kubernetes
APPLY = "application/apply-patch+yaml"


@pytest.fixture(scope="module")
def plane() -> Iterator[cluster.ControlPlane]:
    with cluster.control_plane() as started:
        yield started


@pytest.fixture
def apps(plane: cluster.ControlPlane) -> client.AppsV1Api:
    return client.AppsV1Api(plane.client)


@pytest.fixture
def core(plane: cluster.ControlPlane) -> client.CoreV1Api:
    return client.CoreV1Api(plane.client)


def ready(apps: client.AppsV1Api, name: str) -> int:
    return apps.read_namespaced_deployment(name, "default").status.ready_replicas or 0


def pods(core: client.CoreV1Api, name: str) -> list[client.V1Pod]:
    return list(core.list_namespaced_pod("default", label_selector=f"app={name}").items)


def container(core: client.CoreV1Api, name: str) -> client.V1ContainerStatus | None:
    """Of the one pod of that deployment, as soon as it says anything."""
    found = [status for pod in pods(core, name) for status in pod.status.container_statuses or []]
    return found[0] if found else None


def test_replicas_become_ready(apps: client.AppsV1Api, core: client.CoreV1Api) -> None:
    apps.create_namespaced_deployment("default", deployment("web"))
    timing.until(lambda: ready(apps, "web") == 2, "two replicas")
    assert {pod.status.phase for pod in pods(core, "web")} == {"Running"}
    assert len({pod.status.pod_ip for pod in pods(core, "web")}) == 2


def test_one_that_is_never_ready_runs_and_becomes_ready_when_it_no_longer_has_to_stay_so(
    apps: client.AppsV1Api, core: client.CoreV1Api
) -> None:
    stuck = deployment("stuck", replicas=1, annotations={"trimtab.test/outcome": "never-ready"})
    apps.create_namespaced_deployment("default", stuck)
    timing.until(lambda: (of := container(core, "stuck")) is not None and of.state.running is not None, "its container")
    # one that came later has been ready for long
    apps.create_namespaced_deployment("default", deployment("later"))
    timing.until(lambda: ready(apps, "later") == 2, "two replicas")
    assert ready(apps, "stuck") == 0
    (pod,) = pods(core, "stuck")
    core.patch_namespaced_pod(
        pod.metadata.name, "default", {"metadata": {"annotations": {"trimtab.test/outcome": None}}}
    )
    timing.until(lambda: ready(apps, "stuck") == 1, "its readiness")


def test_one_that_crashes_is_started_again_and_again(apps: client.AppsV1Api, core: client.CoreV1Api) -> None:
    says = {"trimtab.test/outcome": "crash", "trimtab.test/exit-code": "3", "trimtab.test/message": "no such model"}
    apps.create_namespaced_deployment("default", deployment("broken", replicas=1, annotations=says))
    timing.until(lambda: (of := container(core, "broken")) is not None and of.restart_count >= 2, "two restarts")
    of = container(core, "broken")
    assert of is not None
    assert of.state.waiting.reason == "CrashLoopBackOff"
    assert (of.last_state.terminated.exit_code, of.last_state.terminated.message) == (3, "no such model")
    assert ready(apps, "broken") == 0


def test_one_that_is_slow_takes_its_time(apps: client.AppsV1Api, core: client.CoreV1Api) -> None:
    slow = deployment("slow", replicas=1, annotations={"trimtab.test/ready-after": "3s"})
    apps.create_namespaced_deployment("default", slow)
    timing.until(lambda: ready(apps, "slow") == 1, "its readiness")
    (pod,) = pods(core, "slow")
    (became,) = [one.last_transition_time for one in pod.status.conditions if one.type == "Ready"]
    # both are whole seconds
    assert became - pod.status.start_time >= datetime.timedelta(seconds=2)


def test_who_asks_for_a_gpu_gets_a_node_that_has_one_free(apps: client.AppsV1Api, core: client.CoreV1Api) -> None:
    def asking(name: str, gpus: int) -> Manifest:
        return deployment(name, replicas=1, container={"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}})

    apps.create_namespaced_deployment("default", asking("trainer", 8))
    timing.until(lambda: ready(apps, "trainer") == 1, "a node with eight")
    assert [pod.spec.node_name for pod in pods(core, "trainer")] == ["gpu-0"]
    apps.create_namespaced_deployment("default", asking("too-many", 1))

    def refused() -> list[str]:
        conditions = [one for pod in pods(core, "too-many") for one in pod.status.conditions or []]
        return [one.message for one in conditions if one.reason == "Unschedulable"]

    timing.until(lambda: bool(refused()), "the scheduler's refusal")
    assert "3 Insufficient nvidia.com/gpu" in refused()[0]


def test_a_lease_is_made_once_and_replaced_only_by_who_has_seen_the_last_change(plane: cluster.ControlPlane) -> None:
    leases = client.CoordinationV1Api(plane.client)
    asked = client.V1Lease(metadata=client.V1ObjectMeta(name="leader"), spec=client.V1LeaseSpec(holder_identity="one"))
    leases.create_namespaced_lease("default", asked)
    with pytest.raises(ApiException) as again:
        leases.create_namespaced_lease("default", asked)
    assert (again.value.status, again.value.reason) == (409, "Conflict")
    seen, stale = (leases.read_namespaced_lease("leader", "default") for _ in range(2))
    seen.spec.holder_identity, stale.spec.holder_identity = "two", "three"
    leases.replace_namespaced_lease("leader", "default", seen)
    with pytest.raises(ApiException) as late:
        leases.replace_namespaced_lease("leader", "default", stale)
    assert late.value.status == 409
    assert leases.read_namespaced_lease("leader", "default").spec.holder_identity == "two"


def test_a_field_belongs_to_who_applied_it(apps: client.AppsV1Api) -> None:
    def apply(image: str, manager: str, force: bool = False) -> str:
        applied = apps.patch_namespaced_deployment(
            "applied",
            "default",
            deployment("applied", image),
            field_manager=manager,
            force=force,
            _content_type=APPLY,
        )
        return str(applied.spec.template.spec.containers[0].image)

    apply("example.test/app:1", "one")
    assert apply("example.test/app:2", "one") == "example.test/app:2"
    with pytest.raises(ApiException) as conflict:
        apply("example.test/app:3", "two")
    assert conflict.value.status == 409
    causes = json.loads(conflict.value.body)["details"]["causes"]
    image = '.spec.template.spec.containers[name="app"].image'
    assert {"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": image} in causes
    assert apply("example.test/app:3", "two", force=True) == "example.test/app:3"


def test_helm_installs_a_chart_and_takes_it_away(plane: cluster.ControlPlane, tmp_path: pathlib.Path) -> None:
    (tmp_path / "Chart.yaml").write_text("{apiVersion: v2, name: small, version: 0.1.0}")
    (tmp_path / "templates").mkdir()
    template = json.dumps(deployment("from-a-chart")).replace('"replicas": 2', '"replicas": {{ .Values.replicas }}')
    (tmp_path / "templates" / "deployment.yaml").write_text(template)
    plane.helm("install", "small", str(tmp_path), "--set", "replicas=3", "--wait", "--timeout", "60s")
    assert ready(client.AppsV1Api(plane.client), "from-a-chart") == 3
    plane.helm("uninstall", "small", "--wait")
    assert "from-a-chart" not in plane.kubectl("get", "deployments", "--output", "name")


def test_nobody_may_do_what_no_role_allows(plane: cluster.ControlPlane) -> None:
    plane.kubectl("create", "serviceaccount", "nobody")
    token = plane.kubectl("create", "token", "nobody").strip()
    settings = client.Configuration(
        host=f"https://127.0.0.1:{plane.port}", api_key={"authorization": f"Bearer {token}"}
    )
    settings.ssl_ca_cert = str(plane.certificate)
    with client.ApiClient(settings) as theirs:
        read = client.AppsV1Api(theirs).list_namespaced_deployment
        with pytest.raises(ApiException) as refused:
            read("default")
        assert refused.value.status == 403
        plane.kubectl("create", "rolebinding", "nobody", "--clusterrole=view", "--serviceaccount=default:nobody")
        timing.until(lambda: _answers(lambda: read("default")), "the right to look")


def _answers(call: Callable[[], object]) -> bool:
    try:
        call()
    except ApiException:
        return False
    return True


def processes_of(folder: pathlib.Path | str) -> list[str]:
    """Names of those that are told of it."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(str(folder) in word for word in words[1:]):
            found.append(pathlib.Path(words[0]).name)
    return found


def test_two_run_beside_each_other_and_nothing_is_left_of_one_that_ended(
    plane: cluster.ControlPlane, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binaries.folder(binaries.CONTROL_PLANE)  # the cache is where we are at home
    monkeypatch.setenv("XDG_CACHE_HOME", str(binaries.kept().parents[1]))
    monkeypatch.setenv("HOME", str(tmp_path))
    with cluster.control_plane(fakes=[cluster.Fake("other-0")]) as other:
        names = {node.metadata.name for node in client.CoreV1Api(other.client).list_node().items}
        assert names == {"other-0"}
        assert {"etcd", "kube-apiserver", "kwok"} <= set(processes_of(other.folder))
        other.helm("list")
    assert processes_of(other.folder) == []
    assert not other.folder.exists()
    assert list(tmp_path.iterdir()) == []
    assert len(client.CoreV1Api(plane.client).list_node().items) == len(cluster.FAKES)


def test_no_process_outlives_who_started_it_even_when_that_is_killed() -> None:
    command = [sys.executable, "-m", "tests.kubernetes.cluster"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        said = started.stdout.readline().split()
        folder = pathlib.Path(said[said.index("--kubeconfig") + 1]).parent
        assert "etcd" in processes_of(folder)
        os.kill(started.pid, signal.SIGKILL)
    timing.until(lambda: not processes_of(folder), "the end of all of them")
    shutil.rmtree(folder)


def test_one_that_does_not_come_up_says_its_last_words(tmp_path: pathlib.Path) -> None:
    etcd = processes.Daemon(
        tmp_path, "etcd", [binaries.program(binaries.CONTROL_PLANE, "etcd"), "--data-dir", "/proc/nowhere"]
    )
    with pytest.raises(RuntimeError, match=r"(?s)etcd ended with status 1:.*/proc/nowhere"):
        etcd.await_ready(lambda: False)


def test_a_build_that_fails_says_why(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"(?s)`go build` in .*pause failed:.*no-such-package"):
        binaries.folder(binaries.Piece("pause", {"nothing": "./no-such-package"}))
    assert not list(tmp_path.rglob("bin"))
