"""Default deny, and each edge at both ends; every address that a process is given can be reached by it."""

import itertools
import json
import re
from typing import Any

import pytest
import yaml
from tests.deploy import charts

pytestmark = pytest.mark.kubernetes
ADDRESS = re.compile(rf"\b({charts.RELEASE}-[\w-]+):(\d+)\b")
INSIDE = {"gateway", "feedback", "ledger", "reward", "trainer", "rollout", "policy", "toolbox", "topics", "trainer-job"}
every_installation = pytest.mark.parametrize("name", charts.INSTALLATIONS)
Edge = tuple[str, str, int]


def policies(name: str) -> dict[str, charts.Document]:
    """By component."""
    found = charts.of_kind(charts.rendered(name), "NetworkPolicy")
    return {key.removeprefix(f"{charts.RELEASE}-"): one for key, one in found.items()}


def component_of(peer: dict[str, Any]) -> str:
    """Of a peer that is a component of this release; "" for another one."""
    labels = peer.get("podSelector", {}).get("matchLabels", {})
    if labels.get("app.kubernetes.io/instance") != charts.RELEASE:
        return ""
    return str(labels["app.kubernetes.io/component"])


def edges(name: str, direction: str) -> set[Edge]:
    """(who calls, who is called, port) within the release, as its "ingress" or its "egress" rules have it."""
    found = set()
    for component, policy in policies(name).items():
        for rule in policy["spec"].get(direction, []):
            for peer, port in itertools.product(rule.get("from", rule.get("to", [])), rule["ports"]):
                if other := component_of(peer):
                    pair = (other, component) if direction == "ingress" else (component, other)
                    found.add((*pair, port["port"]))
    return found


def egress_ports(name: str, component: str) -> set[int]:
    """Ports that it may call outside of the release."""
    rules = policies(name)[component]["spec"]["egress"]
    outside = [rule for rule in rules if not any(component_of(peer) for peer in rule.get("to", []))]
    return {port["port"] for rule in outside for port in rule["ports"]} - {53}


@every_installation
def test_nobody_talks_unless_it_is_said(name: str) -> None:
    deny = policies(name)["default-deny"]["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not deny.keys() & {"ingress", "egress"}
    for pod in charts.pods(charts.rendered(name)).values():
        assert deny["podSelector"]["matchLabels"].items() <= pod.labels.items()
        own = policies(name)[pod.component]["spec"]
        assert own["podSelector"]["matchLabels"].items() <= pod.labels.items()
        assert own["policyTypes"] == ["Ingress", "Egress"]
        assert all(rule["ports"] for rule in [*own["ingress"], *own["egress"]]), "a port is always named"


@every_installation
def test_each_edge_has_both_ends_and_a_port_that_listens(name: str) -> None:
    assert edges(name, "ingress") == edges(name, "egress")
    pods = charts.pods(charts.rendered(name))
    for caller, called, port in edges(name, "ingress"):
        assert caller in pods
        listening = {
            one["containerPort"] for container in pods[called].containers for one in container.get("ports", [])
        }
        assert port in listening


@every_installation
def test_every_address_that_a_process_is_given_is_reached(name: str) -> None:
    documents = charts.rendered(name)
    services, given = charts.of_kind(documents, "Service"), set()
    for pod in charts.pods(documents).values():
        told = [word for one in pod.containers for word in one.get("args", [])]
        given |= {(pod.component, *found) for found in ADDRESS.findall(" ".join(told))}
    for document in charts.of_kind(documents, "ConfigMap").values():
        if "platform.json" in document["data"]:
            given |= {("toolbox", *found) for found in ADDRESS.findall(document["data"]["platform.json"])}
    assert len(given) >= 4
    for caller, host, port in given:
        service = services[host]["spec"]
        (target,) = [one["targetPort"] for one in service["ports"] if one["port"] == int(port)]
        called = service["selector"]["app.kubernetes.io/component"]
        ports = charts.pods(documents)[called].spec["containers"][0]["ports"]
        (number,) = [one["containerPort"] for one in ports if one["name"] == target]
        assert (caller, called, number) in edges(name, "egress"), f"{caller} is told of {host}:{port}"


@every_installation
def test_policies_that_the_controller_makes_are_reached_by_those_that_ask_them(name: str) -> None:
    (grpc,) = [
        port["containerPort"]
        for port in charts.pods(charts.rendered(name))["policy"].spec["containers"][0]["ports"]
        if port["name"] == "grpc"
    ]
    asking = {caller for caller, called, port in edges(name, "ingress") if called == "policy" and port == grpc}
    assert asking >= {"gateway", "rollout", "trainer"}
    assert "feedback" not in asking


@every_installation
def test_outside_of_the_release_is_reached_by_those_that_need_it(name: str) -> None:
    documents = charts.rendered(name)
    told = charts.settings(documents)
    kafka = {int(port) for port in re.findall(r":(\d+)", told["TRIMTAB_LOG_URL"])}
    objects = told["TRIMTAB_REGISTRY_URL"].startswith("s3://")
    for component in charts.pods(documents):
        wanted = set() if component == "trainer-job" else set(kafka)
        if component == "ledger":
            wanted |= {5432}
        if objects and component not in ("gateway", "feedback", "topics", "trainer-job"):
            wanted |= {443}
        if component == "rollout":
            wanted |= {443, 6443}
        assert egress_ports(name, component) == wanted, component


@every_installation
def test_metrics_are_read_and_only_the_gateway_is_open_to_apps(name: str) -> None:
    pods = charts.pods(charts.rendered(name))
    for component, pod in pods.items():
        for rule in policies(name)[component]["spec"]["ingress"]:
            if not any(component_of(peer) for peer in rule.get("from", [])):
                names = {one["containerPort"]: one["name"] for one in pod.spec["containers"][0]["ports"]}
                opened = {names[port["port"]] for port in rule["ports"]}
                assert opened == {"metrics"} or (component == "gateway" and opened <= {"http", "grpc"})
    metrics = int(charts.settings(charts.rendered(name))["TRIMTAB_METRICS_PORT"])
    for component in pods.keys() - {"toolbox", "topics", "trainer-job"}:
        ports = {one["containerPort"] for one in pods[component].spec["containers"][0]["ports"]}
        assert metrics in ports


def test_the_strimzi_cluster_and_user_are_those_that_the_chart_means() -> None:
    files = [path.read_text() for path in sorted((charts.ROOT / "deploy/kafka").glob("*.yaml"))]
    resources = {one["kind"]: one for text in files for one in yaml.safe_load_all(text)}
    defaults = yaml.safe_load((charts.CHART / "values.yaml").read_text())["kafka"]
    kafka, pool, user = resources["Kafka"], resources["KafkaNodePool"], resources["KafkaUser"]
    assert kafka["metadata"]["name"] == defaults["strimzi"]["cluster"]
    assert user["metadata"]["name"] == defaults["strimzi"]["user"]
    assert {one["metadata"]["labels"]["strimzi.io/cluster"] for one in (pool, user)} == {kafka["metadata"]["name"]}
    for acl in user["spec"]["authorization"]["acls"]:
        assert acl["resource"]["name"] == defaults["topicPrefix"]
        assert acl["resource"]["patternType"] == "prefix"
    (listener,) = kafka["spec"]["kafka"]["listeners"]
    told = charts.settings(charts.rendered("production"))
    assert told["TRIMTAB_LOG_URL"] == f"kafka://trimtab-kafka-kafka-bootstrap:{listener['port']}/trimtab."
    assert told["TRIMTAB_KAFKA_SECURITY_PROTOCOL"] == "SASL_SSL" and listener["tls"] is True
    mechanism = listener["authentication"]["type"]
    assert told["TRIMTAB_KAFKA_SASL_MECHANISM"] == mechanism.upper() == "SCRAM-SHA-512"
    assert user["spec"]["authentication"]["type"] == mechanism
    (peer,) = listener["networkPolicyPeers"]
    for pod in charts.pods(charts.rendered("production")).values():
        assert peer["podSelector"]["matchLabels"].items() <= pod.labels.items()


def test_the_toolbox_finds_the_platform_as_commands_look_for_it() -> None:
    told = charts.of_kind(charts.rendered("small"), "ConfigMap")[f"{charts.RELEASE}-toolbox"]["data"]
    facts = json.loads(told["platform.json"])
    assert facts["tenant"] == "acme" and facts["line"] == "main"
    assert facts["addresses"].keys() == {"gateway", "feedback", "ledger", "reward", "trainer", "rollout"}
