"""The chart in a real Kubernetes that enforces "restricted", and the rights of the rollout controller there.

Pods are of kwok: they run nothing. NetworkPolicies are taken and not enforced.
"""

import pathlib
from collections.abc import Iterator

import kubernetes
import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException
from tests import timing
from tests.deploy import charts
from tests.kubernetes import cluster

from trimtab.rollout import backend
from trimtab.rollout.cluster import api, pods, template

pytestmark = pytest.mark.kubernetes
NAMESPACE = "models"
CONTROLLER = f"system:serviceaccount:{NAMESPACE}:{charts.RELEASE}-rollout"
POLICY_ID = "ab" * 32
# Fake nodes have no labels of NVIDIA's.
ONE_CLAIM = ("--set=trainer.volume.accessMode=ReadWriteOnce", "--set=trainer.volume.size=20Gi")
ANYWHERE = ("--set=policy.nodeSelector=null", "--set=trainer.job.nodeSelector=null")


def volume(name: str) -> charts.Document:
    spec = {"capacity": {"storage": "1Ti"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/tmp"}}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}


@pytest.fixture(scope="module")
def plane() -> Iterator[cluster.ControlPlane]:
    """With a namespace for the chart, the Secrets that people make, and room for its claims."""
    enforce = {"pod-security.kubernetes.io/enforce": "restricted"}
    with cluster.control_plane() as started:
        started.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": enforce}},
            *(volume(name) for name in ("one", "two")),
        )
        for name in sorted(charts.SECRETS_OF_OTHERS):
            started.kubectl(
                f"--namespace={NAMESPACE}", "create", "secret", "generic", name, "--from-literal=password=x"
            )
        yield started


def install(plane: cluster.ControlPlane, name: str, *flags: str) -> None:
    """Returns when every Deployment is available."""
    files = [f"--values={path}" for path in charts.INSTALLATIONS[name]]
    words = ("upgrade", "--install", charts.RELEASE, str(charts.CHART), f"--namespace={NAMESPACE}", *files, *flags)
    plane.helm(*words, "--wait", f"--timeout={timing.PATIENCE_S:.0f}s")


def controller(plane: cluster.ControlPlane, folder: pathlib.Path) -> pods.ClusterBackend:
    """The rollout controller's own hand, with the rights and the template that the chart gives it."""
    given = client.CoreV1Api(plane.client).read_namespaced_config_map(f"{charts.RELEASE}-policy", NAMESPACE)
    path = folder / "policy.yaml"
    path.write_text(given.data["policy.yaml"])
    connection = kubernetes.config.new_client_from_config(str(plane.kubeconfig))
    connection.set_default_header("Impersonate-User", CONTROLLER)
    shape = template.load(path, charts.RELEASE, NAMESPACE)
    return pods.ClusterBackend(api.Api(NAMESPACE, connection, timing.PATIENCE_S), shape)


def wanted(line: str) -> backend.Wanted:
    return backend.Wanted(POLICY_ID, line, backend.Role.STABLE, "release-1")


def may(plane: cluster.ControlPlane, verb: str, resource: str, name: str = "", group: str = "") -> bool:
    attributes = {"namespace": NAMESPACE, "verb": verb, "resource": resource, "name": name, "group": group}
    asked = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
    asked |= {"spec": {"user": CONTROLLER, "resourceAttributes": attributes}}
    answer = client.AuthorizationV1Api(plane.client).create_subject_access_review(asked)
    return bool(answer.status.allowed)


def generations(plane: cluster.ControlPlane) -> dict[str, int]:
    found = client.AppsV1Api(plane.client).list_namespaced_deployment(NAMESPACE).items
    return {one.metadata.name: one.metadata.generation for one in found}


def test_every_pod_is_taken_under_restricted_and_a_second_install_restarts_none(plane: cluster.ControlPlane) -> None:
    install(plane, "small")
    first = generations(plane)
    assert len(first) == 7
    core = client.CoreV1Api(plane.client)
    timing.until(lambda: len(core.list_namespaced_pod(NAMESPACE).items) == len(first) + 1, "each pod, and the Job's")
    reasons = {event.reason for event in core.list_namespaced_event(NAMESPACE).items}
    assert "FailedCreate" not in reasons
    install(plane, "small")
    assert generations(plane) == first


def test_a_pod_that_is_not_restricted_would_be_refused(plane: cluster.ControlPlane) -> None:
    pod = {"metadata": {"name": "root"}, "spec": {"containers": [{"name": "root", "image": "example.test/app:1"}]}}
    with pytest.raises(ApiException, match="restricted"):
        client.CoreV1Api(plane.client).create_namespaced_pod(NAMESPACE, pod)


def test_the_controller_makes_changes_and_removes_a_slot_by_its_own_rights(
    plane: cluster.ControlPlane, tmp_path: pathlib.Path
) -> None:
    install(plane, "small")
    mine = controller(plane, tmp_path)
    timing.until(lambda: mine.ensure(wanted("main")).complete, "the slot")
    [replica] = mine.ensure(wanted("main")).replicas
    mine.replace(replica)
    timing.until(lambda: replica not in mine.ensure(wanted("main")).replicas, "another pod")
    assert f"{charts.RELEASE}-policy-main-a" in generations(plane)
    mine.release(POLICY_ID, "main")
    timing.until(lambda: f"{charts.RELEASE}-policy-main-a" not in generations(plane), "its end")
    assert "cannot patch" in mine.ensure(wanted("other")).problem


def test_the_controller_may_do_nothing_else(plane: cluster.ControlPlane) -> None:
    install(plane, "small")
    release = charts.RELEASE
    for verb in ("get", "patch", "delete"):
        assert may(plane, verb, "deployments", f"{release}-policy-main-b", "apps")
        assert not may(plane, verb, "deployments", f"{release}-gateway", "apps")
        assert not may(plane, verb, "services", f"{release}-gateway")
    assert may(plane, "create", "services") and not may(plane, "deletecollection", "services")
    assert may(plane, "update", "leases", f"{release}-rollout", "coordination.k8s.io")
    assert not may(plane, "update", "leases", "another", "coordination.k8s.io")
    assert may(plane, "list", "pods") and may(plane, "create", "events")
    assert may(plane, "delete", "pods")  # of a policy, when it has not loaded what it should; a pod's name is made up
    for verb, resource in (
        *(("get", "secrets"), ("list", "secrets"), ("get", "configmaps"), ("create", "pods")),
        *(("create", "pods/exec"), ("create", "rolebindings"), ("create", "serviceaccounts/token"), ("list", "nodes")),
    ):
        assert not may(plane, verb, resource), (verb, resource)


def test_a_vllm_with_its_gpu_and_a_training_job_are_taken(plane: cluster.ControlPlane, tmp_path: pathlib.Path) -> None:
    install(plane, "gpu on one node", *ONE_CLAIM, *ANYWHERE)
    controller(plane, tmp_path).ensure(wanted("main"))
    core = client.CoreV1Api(plane.client)

    def node_of_the_slot() -> str:
        found = core.list_namespaced_pod(NAMESPACE, label_selector="trimtab.dev/slot=a").items
        return str(found[0].spec.node_name) if found else ""

    timing.until(lambda: node_of_the_slot() == "gpu-0", "a pod on the node with GPUs")
    plane.kubectl("create", "job", "now", f"--from=cronjob/{charts.RELEASE}-trainer-job", "-n", NAMESPACE)
    timing.until(
        lambda: bool(core.list_namespaced_pod(NAMESPACE, label_selector="job-name=now").items), "the pod of the job"
    )
