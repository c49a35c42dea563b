"""The backend on a real control plane: slots, what is put right again, and what is said of pods that do not come up."""

import datetime
import http.server
import json
import pathlib
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import yaml
from kubernetes import client
from tests import timing
from tests.kubernetes import cluster

from trimtab.core import errors, releases, text
from trimtab.rollout import backend, line
from trimtab.rollout.cluster import api, election, events, pods, template

pytestmark = pytest.mark.kubernetes
STABLE, CANDIDATE, THIRD = "a" * 64, "b" * 64, "c" * 64
PORT = 9000


@pytest.fixture(scope="module")
def plane() -> Iterator[cluster.ControlPlane]:
    with cluster.control_plane() as started:
        yield started


@pytest.fixture
def namespace(plane: cluster.ControlPlane) -> str:
    """A new one, in which pods are taken."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    plane.kubectl("create", "namespace", name)
    plane.kubectl("wait", "-n", name, "--for=create", "serviceaccount/default", f"--timeout={timing.PATIENCE_S:.0f}s")
    return name


Place = Callable[..., pods.ClusterBackend]


@pytest.fixture
def place(plane: cluster.ControlPlane, namespace: str, tmp_path: pathlib.Path) -> Place:
    """A backend whose pods come to what these annotations say."""

    def made(**outcome: str) -> pods.ClusterBackend:
        return pods.ClusterBackend(
            api.connect(namespace, plane.kubeconfig, timeout_s=10.0), shape(tmp_path, namespace, **outcome)
        )

    return made


def shape(
    folder: pathlib.Path, namespace: str, image: str = "example.test/policy:1", **outcome: str
) -> template.Template:
    says = {f"trimtab.test/{name.replace('_', '-')}": value for name, value in outcome.items()}
    policy: dict[str, Any] = {"name": "policy", "image": image, "ports": [{"name": "grpc", "containerPort": PORT}]}
    policy["args"] = ["--model-id={policy_id}", "--line={line}"]
    fetch = {"name": "fetch", "image": image, "args": ["models", "fetch", "{policy_id}"]}
    pod = {"initContainers": [fetch], "containers": [policy]}
    spec = {"replicas": 2, "template": {"metadata": {"annotations": says}, "spec": pod}}
    path = folder / "policy.yaml"
    path.write_text(yaml.safe_dump(spec))
    return template.load(path, "shop", namespace)


def wanted(policy_id: str, role: backend.Role = backend.Role.STABLE) -> backend.Wanted:
    return backend.Wanted(policy_id, "support", role, f"release-of-{policy_id[0]}")


def up(one: pods.ClusterBackend, what: backend.Wanted) -> backend.ProcessStatus:
    found: list[backend.ProcessStatus] = []

    def complete() -> bool:
        found.append(one.ensure(what))
        return found[-1].complete

    timing.until(complete, "its pods")
    return found[-1]


def problem(one: pods.ClusterBackend, what: backend.Wanted, words: str) -> backend.ProcessStatus:
    """As soon as it says so."""
    found: list[backend.ProcessStatus] = []

    def said() -> bool:
        found.append(one.ensure(what))
        return words in found[-1].problem

    timing.until(said, f"{words!r}")
    return found[-1]


def deployment(plane: cluster.ControlPlane, namespace: str, slot: str = "a") -> Mapping[str, Any]:
    return json.loads(
        plane.kubectl(
            *f"get deployment shop-policy-support-{slot} -n {namespace} -o json --show-managed-fields".split()
        )
    )


def test_a_policy_has_its_pods_and_an_address_of_all_that_are_ready(
    plane: cluster.ControlPlane, namespace: str, place: Place
) -> None:
    status = up(place(), wanted(STABLE))
    assert status.address == f"dns:///shop-policy-support-a-{STABLE[:12]}.{namespace}.svc:{PORT}"
    assert (status.healthy, status.problem, status.restarts) == (True, "", 0)
    assert len({one.address for one in status.replicas}) == len({one.life for one in status.replicas}) == 2
    assert all(one.address.endswith(f":{PORT}") for one in status.replicas)
    made = deployment(plane, namespace)
    assert made["metadata"]["annotations"][template.RELEASE_ID] == "release-of-a"
    assert made["metadata"]["labels"][template.ROLE] == "stable"
    pod = made["spec"]["template"]
    assert pod["metadata"]["annotations"][template.POLICY_ID] == STABLE
    given = [container["args"] for container in (*pod["spec"]["initContainers"], *pod["spec"]["containers"])]
    assert given == [["models", "fetch", STABLE], [f"--model-id={STABLE}", "--line=support"]]
    managers = {one["manager"]: one["operation"] for one in made["metadata"]["managedFields"]}
    assert managers[api.FIELD_MANAGER] == "Apply"


def test_the_service_of_a_slot_leads_to_the_pods_of_its_policy_alone(
    plane: cluster.ControlPlane, namespace: str, place: Place
) -> None:
    one = place()
    here = up(one, wanted(STABLE))
    there = up(one, wanted(CANDIDATE, backend.Role.CANDIDATE))
    assert there.address != here.address
    for status, name in ((here, f"a-{STABLE[:12]}"), (there, f"b-{CANDIDATE[:12]}")):
        service = f"kubernetes.io/service-name=shop-policy-support-{name}"
        found = json.loads(plane.kubectl("get", "endpointslices", "-n", namespace, "-l", service, "-o", "json"))
        addresses = {
            f"{address}:{PORT}"
            for piece in found["items"]
            for end in piece["endpoints"]
            for address in end["addresses"]
        }
        assert addresses == {replica.address for replica in status.replicas}


def test_a_service_goes_with_its_deployment_and_comes_back_with_it(
    plane: cluster.ControlPlane, namespace: str, place: Place
) -> None:
    def owners() -> dict[str, str]:
        found = json.loads(plane.kubectl(*f"get services -n {namespace} -o json".split()))["items"]
        return {one["metadata"]["name"]: one["metadata"]["ownerReferences"][0]["uid"] for one in found}

    one = place()
    up(one, wanted(STABLE))
    name = f"shop-policy-support-a-{STABLE[:12]}"
    assert owners() == {name: deployment(plane, namespace)["metadata"]["uid"]}
    plane.kubectl("delete", "deployment/shop-policy-support-a", "-n", namespace)

    def is_back() -> bool:
        status = one.ensure(wanted(STABLE))
        return status.complete and owners().get(name) == deployment(plane, namespace)["metadata"]["uid"]

    timing.until(is_back, "the Service of the new Deployment")
    one.release(STABLE, "support")
    timing.until(lambda: not owners(), "the end of the Service")


def test_a_third_policy_waits_until_a_slot_is_given_back(place: Place) -> None:
    one = place()
    up(one, wanted(STABLE))
    up(one, wanted(CANDIDATE, backend.Role.PREVIOUS))
    waits = one.ensure(wanted(THIRD, backend.Role.CANDIDATE))
    assert not waits.healthy
    assert "shop-policy-support-a (aaaaaaaaaaaa), shop-policy-support-b (bbbbbbbbbbbb)" in waits.problem
    one.release(CANDIDATE, "support")
    assert up(one, wanted(THIRD, backend.Role.CANDIDATE)).address.startswith("dns:///shop-policy-support-b-")
    one.release(CANDIDATE, "support")  # as a controller does that starts anew
    assert up(one, wanted(STABLE)).address.startswith("dns:///shop-policy-support-a-")


def test_a_role_that_changes_starts_no_pod_anew(plane: cluster.ControlPlane, namespace: str, place: Place) -> None:
    one = place()
    before = up(one, wanted(STABLE, backend.Role.CANDIDATE))
    after = up(one, wanted(STABLE, backend.Role.STABLE))
    assert deployment(plane, namespace)["metadata"]["labels"][template.ROLE] == "stable"
    assert after.replicas == before.replicas


@pytest.mark.parametrize("again", [False, True], ids=["the same controller", "a new one"])
def test_what_somebody_changes_by_hand_is_put_right(
    plane: cluster.ControlPlane, namespace: str, place: Place, again: bool
) -> None:
    one = place()
    up(one, wanted(STABLE))
    name = "deployment/shop-policy-support-a"
    plane.kubectl("set", "image", name, "policy=example.test/another:2", "-n", namespace)
    plane.kubectl("annotate", name, f"{template.POLICY_ID}-", "-n", namespace)
    plane.kubectl("label", name, f"{template.ROLE}=candidate", "--overwrite", "-n", namespace)
    up(place() if again else one, wanted(STABLE))
    made = deployment(plane, namespace)
    assert [one["image"] for one in made["spec"]["template"]["spec"]["containers"]] == ["example.test/policy:1"]
    assert made["metadata"]["annotations"][template.POLICY_ID] == STABLE
    assert made["metadata"]["labels"][template.ROLE] == "stable"


def test_what_somebody_deletes_comes_back_where_it_was(
    plane: cluster.ControlPlane, namespace: str, place: Place
) -> None:
    one = place()
    before = up(one, wanted(STABLE))
    up(one, wanted(CANDIDATE))
    plane.kubectl("delete", "deployment", "shop-policy-support-a", "-n", namespace)
    after = up(one, wanted(STABLE))
    assert after.address == before.address
    assert not {one.life for one in after.replicas} & {one.life for one in before.replicas}


def test_an_autoscaler_keeps_the_number_of_pods_where_the_template_has_none(
    plane: cluster.ControlPlane, namespace: str, tmp_path: pathlib.Path
) -> None:
    spec = yaml.safe_load((shape(tmp_path, namespace), (tmp_path / "policy.yaml").read_text())[1])
    del spec["replicas"]
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(spec))
    one = pods.ClusterBackend(
        api.connect(namespace, plane.kubeconfig, timeout_s=10.0),
        template.load(tmp_path / "policy.yaml", "shop", namespace),
    )
    assert len(up(one, wanted(STABLE)).replicas) == 1
    plane.kubectl("scale", "deployment", "shop-policy-support-a", "--replicas=3", "-n", namespace)
    timing.until(lambda: len(one.ensure(wanted(STABLE)).replicas) == 3, "three pods")


def test_another_pod_comes_for_one_that_is_replaced(place: Place) -> None:
    one = place()
    before = up(one, wanted(STABLE))
    one.replace(before.replicas[0])
    timing.until(lambda: before.replicas[0] not in one.ensure(wanted(STABLE)).replicas, "its end")
    after = up(one, wanted(STABLE))
    assert len(after.replicas) == 2
    one.replace(before.replicas[0])  # gone already
    assert one.ensure(wanted(STABLE)).replicas == after.replicas


def test_pods_that_never_get_ready_say_so(place: Place) -> None:
    status = problem(place(outcome="never-ready"), wanted(STABLE), "0 of 2 pods are ready")
    assert (status.healthy, status.complete, status.replicas) == (False, False, ())


def test_pods_that_crash_say_how_they_ended(place: Place) -> None:
    one = place(outcome="crash", exit_code="3", message="There is no model.")
    status = problem(one, wanted(STABLE), "CrashLoopBackOff (back-off restarting failed container)")
    assert status.problem.endswith("; it ended with exit 3 (Error), saying: There is no model.")
    assert not status.healthy
    timing.until(lambda: one.ensure(wanted(STABLE)).restarts >= 3, "restarts")


def test_a_quota_that_is_exhausted_is_named(plane: cluster.ControlPlane, namespace: str, place: Place) -> None:
    plane.kubectl("create", "quota", "none", "--hard=pods=0", "-n", namespace)
    status = problem(place(), wanted(STABLE), "Its pods are not made: ")
    assert "exceeded quota" in status.problem
    plane.kubectl("delete", "quota", "none", "-n", namespace)
    up(place(), wanted(STABLE))


def test_a_pod_without_a_node_says_why(plane: cluster.ControlPlane, namespace: str, tmp_path: pathlib.Path) -> None:
    shape(tmp_path, namespace)
    spec = yaml.safe_load((tmp_path / "policy.yaml").read_text())
    spec["template"]["spec"]["nodeSelector"] = {"gpu": "none-of-these"}
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(spec))
    one = pods.ClusterBackend(
        api.connect(namespace, plane.kubeconfig, timeout_s=10.0),
        template.load(tmp_path / "policy.yaml", "shop", namespace),
    )
    assert "didn't match Pod's node affinity/selector" in problem(one, wanted(STABLE), " has no node: ").problem


def test_what_the_api_will_refuse_again_is_a_problem_and_no_error(
    plane: cluster.ControlPlane, tmp_path: pathlib.Path
) -> None:
    one = pods.ClusterBackend(api.connect("nowhere", plane.kubeconfig, timeout_s=10.0), shape(tmp_path, "nowhere"))
    status = one.ensure(wanted(STABLE))
    assert not status.complete
    assert 'namespaces "nowhere" not found (404)' in status.problem
    one = pods.ClusterBackend(
        api.connect("default", plane.kubeconfig, timeout_s=10.0), shape(tmp_path, "default", image="")
    )
    assert "Required value" in one.ensure(wanted(STABLE)).problem


@pytest.mark.parametrize(
    ("code", "error"), [(429, errors.Overloaded), (409, errors.ServiceUnavailable), (503, errors.ServiceUnavailable)]
)
def test_what_passes_by_itself_is_waited_for(tmp_path: pathlib.Path, code: int, error: type[Exception]) -> None:
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said = json.dumps({"kind": "Status", "message": "not now"}).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        one = pods.ClusterBackend(
            api.connect("default", config_of(tmp_path, server.server_port), timeout_s=10.0), shape(tmp_path, "x")
        )
        with pytest.raises(error, match="not now"):
            one.ensure(wanted(STABLE))
        server.shutdown()
    with pytest.raises(errors.ServiceUnavailable, match="The Kubernetes API is away"):
        one.ensure(wanted(STABLE))


def config_of(folder: pathlib.Path, port: int) -> pathlib.Path:
    says = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "x", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "current-context": "x",
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(says))
    return path


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_one_of_several_controllers_acts_and_another_after_it_is_silent(
    plane: cluster.ControlPlane, namespace: str
) -> None:
    connected, clock = api.connect(namespace, plane.kubeconfig, timeout_s=10.0), Clock()
    one, other = (election.Election(connected, "shop", name, 10.0, monotonic=clock) for name in ("one", "other"))
    assert [one.won(), other.won(), one.won()] == [True, False, True]
    clock.seconds += 9.0
    assert other.won() is False  # it renewed meanwhile, and that is when the other one looks
    clock.seconds += 9.0
    assert [one.won(), other.won()] == [True, False]
    clock.seconds += 11.0
    assert [other.won(), one.won()] == [True, False]
    lease = connected.lease("shop")
    assert (lease.spec.holder_identity, lease.spec.lease_transitions) == ("other", 1)
    other.give_back()
    assert one.won()


def test_of_two_that_write_the_lease_at_once_one_does(plane: cluster.ControlPlane, namespace: str) -> None:
    connected = api.connect(namespace, plane.kubeconfig, timeout_s=10.0)
    one = election.Election(connected, "shop", "one", 10.0)
    assert one.won()
    read = connected.lease("shop")
    assert one.won()
    read.spec.holder_identity = "other"
    assert connected.write_lease(read) is False
    assert connected.lease("shop").spec.holder_identity == "one"


def test_what_happens_to_a_release_is_an_event_of_its_deployment(
    plane: cluster.ControlPlane, namespace: str, place: Place, tmp_path: pathlib.Path
) -> None:
    up(place(), wanted(CANDIDATE))
    told = events.Events(
        api.connect(namespace, plane.kubeconfig, timeout_s=10.0), shape(tmp_path, namespace), "controller-1"
    )
    at = datetime.datetime.now(datetime.UTC)
    release = releases.Release(
        id="release-1",
        context=text.Context("acme", "support"),
        revision=7,
        candidate_id=CANDIDATE,
        stable_id=STABLE,
        anchor_id=STABLE,
        state=releases.ReleaseState.VERIFYING,
        salt=b"",
        created_at=at,
    )
    moved = line.moved(release, releases.ReleaseState.ROLLING_BACK, "Candidate approval 0.31 against 0.52.", at)
    told.tell(moved)
    told.tell(moved)  # as after a kill
    [event] = client.CoreV1Api(plane.client).list_namespaced_event(
        namespace, field_selector="involvedObject.kind=Deployment,type=Warning"
    ).items  # fmt: skip
    assert (event.involved_object.name, event.reason) == ("shop-policy-support-a", "RollingBack")
    assert event.message == "Release release-1: Candidate approval 0.31 against 0.52."


def test_a_template_that_is_none_is_refused_with_a_sentence(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "policy.yaml"
    for written in ("replicas: 1", "- 1", "{template: {spec: {containers: [{name: web}]}}}"):
        path.write_text(written)
        with pytest.raises(errors.InvalidField, match="is no template of a policy"):
            template.load(path, "shop", "default")
    path.write_text("{")
    with pytest.raises(errors.InvalidField, match="cannot be read"):
        template.load(path, "shop", "default")


def test_names_of_lines_are_names_in_the_cluster() -> None:
    assert template.slug("support") == "support"
    assert template.slug("Support Desk") != template.slug("support_desk")
    for name in ("Support", "a.b", "x" * 80, "ä", "-", "support-"):
        made = template.slug(name)
        assert made.strip("-") == made
        assert 0 < len(made) <= 29
