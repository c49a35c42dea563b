"""Pods by the "restricted" pod security standard; limits, probes and time to drain for every container."""

import re
from collections.abc import Iterator

import pytest
from tests.deploy import charts

pytestmark = pytest.mark.kubernetes
POD_VOLUMES = {"emptyDir", "configMap", "secret", "projected", "persistentVolumeClaim"}
PREFIXED = re.compile(r"--drain-s=(\d+)")
every_pod = pytest.mark.parametrize("name", charts.INSTALLATIONS)


def pods(name: str) -> Iterator[charts.Pod]:
    yield from charts.pods(charts.rendered(name)).values()


def test_there_are_all_that_there_should_be() -> None:
    processes = {"gateway", "feedback", "ledger", "reward", "trainer", "rollout", "policy", "topics"}
    assert charts.pods(charts.rendered("small")).keys() == processes | {"toolbox"}
    assert charts.pods(charts.rendered("everything")).keys() == processes | {"trainer-job"}


@every_pod
def test_restricted(name: str) -> None:
    for pod in pods(name):
        spec = pod.spec
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & spec.keys()
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == security["runAsGroup"] == 65532
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for volume in spec["volumes"]:
            assert volume.keys() - {"name"} <= POD_VOLUMES, volume
        for container in pod.containers:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert own["readOnlyRootFilesystem"] is True
            assert not {"privileged", "runAsUser", "runAsNonRoot", "seccompProfile", "procMount"} & own.keys()
            assert not any("hostPort" in port for port in container.get("ports", []))


@every_pod
def test_requests_and_limits(name: str) -> None:
    for pod in pods(name):
        for container in pod.containers:
            for bound in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][bound].keys(), container["name"]


@every_pod
def test_probes_ask_for_a_port_that_is_there(name: str) -> None:
    for pod in pods(name):
        for container in pod.lasting:
            ports = {port["containerPort"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert "exec" in container[probe] or container[probe]["grpc"]["port"] in ports
            if ports:  # one that is not ready must not be killed for it
                assert container["livenessProbe"]["grpc"]["service"] == "trimtab.live"
                assert "service" not in container["readinessProbe"]["grpc"]


@every_pod
def test_only_the_controller_has_a_token(name: str) -> None:
    for pod in pods(name):
        spec = pod.spec
        assert spec["automountServiceAccountToken"] is (pod.component == "rollout")
        assert spec["serviceAccountName"] == (
            f"{charts.RELEASE}-rollout" if pod.component == "rollout" else charts.RELEASE
        )
        for account in charts.of_kind(charts.rendered(name), "ServiceAccount").values():
            assert account["automountServiceAccountToken"] is False


@every_pod
def test_a_pod_has_time_for_each_step_of_its_drain(name: str) -> None:
    for pod in pods(name):
        spec = pod.spec
        for container in spec["containers"]:
            if drain := PREFIXED.search(" ".join(container.get("args", []))):
                pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
                assert spec["terminationGracePeriodSeconds"] > pause + 4 * int(drain[1])


@every_pod
def test_every_mount_has_its_volume_and_nothing_of_ours_is_writable_but_what_must_be(name: str) -> None:
    for pod in pods(name):
        spec = pod.spec
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        used = set()
        for container in pod.containers:
            assert {"/tmp"} <= {mount["mountPath"] for mount in container["volumeMounts"]}
            for mount in container["volumeMounts"]:
                volume = volumes[mount["name"]]
                used.add(mount["name"])
                if not mount.get("readOnly"):
                    assert {"emptyDir", "persistentVolumeClaim"} & volume.keys(), mount
                if mount["name"] == "models":
                    assert mount["readOnly"] is (pod.component not in ("trainer", "toolbox"))
        assert used == volumes.keys()


@every_pod
def test_what_a_pod_names_is_there(name: str) -> None:
    for pod in pods(name):
        documents, spec = charts.rendered(name), pod.spec
        maps, claims = charts.of_kind(documents, "ConfigMap"), charts.of_kind(documents, "PersistentVolumeClaim")
        secrets = charts.SECRETS_OF_OTHERS
        for container in pod.containers:
            for source in container.get("envFrom", []):
                assert source.get("configMapRef", {}).get("name") in maps or source["secretRef"]["name"] in secrets
        for volume in spec["volumes"]:
            sources = volume["projected"]["sources"] if "projected" in volume else [volume]
            for source in sources:
                if secret := source.get("secret"):
                    assert secret.get("secretName", secret.get("name")) in secrets
            if "secret" in volume or "projected" in volume:
                # what others can read is refused by rpc/secrets.py
                mode = volume.get("secret", volume.get("projected"))["defaultMode"]
                assert mode & 0o007 == 0
                assert mode & 0o040, "its owner is root, our group reads it"
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in {*claims, "mine"}


@pytest.mark.parametrize("name", charts.INSTALLATIONS)
def test_keys_of_the_object_store_are_with_those_that_read_artifacts_only(name: str) -> None:
    told = {
        one.component
        for one in charts.pods(charts.rendered(name)).values()
        for container in one.containers
        if any("secretRef" in source for source in container.get("envFrom", []))
    }
    assert not told & {"gateway", "feedback", "topics"}


@pytest.mark.parametrize("name", charts.INSTALLATIONS)
def test_selectors_find_the_pods_they_are_meant_for(name: str) -> None:
    documents = charts.rendered(name)
    labels = {one.component: one.labels for one in charts.pods(documents).values()}
    labels["policy"] = labels["policy"] | {"trimtab.dev/line": ""}
    for deployment in charts.of_kind(documents, "Deployment").values():
        template = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["selector"]["matchLabels"].items() <= template.items()
    for service in charts.of_kind(documents, "Service").values():
        found = [one for one in labels.values() if service["spec"]["selector"].items() <= one.items()]
        assert len(found) == 1
    for budget in charts.of_kind(documents, "PodDisruptionBudget").values():
        wanted = budget["spec"]["selector"]["matchLabels"]
        assert any(
            wanted.keys() <= one.keys() and wanted["app.kubernetes.io/component"] == name_
            for name_, one in labels.items()
        )
    for scaler in charts.of_kind(documents, "HorizontalPodAutoscaler").values():
        target = charts.of_kind(documents, "Deployment")[scaler["spec"]["scaleTargetRef"]["name"]]
        assert "replicas" not in target["spec"]


@pytest.mark.parametrize("name", charts.INSTALLATIONS)
def test_the_controller_may_do_what_it_does_and_nothing_else(name: str) -> None:
    documents = charts.rendered(name)
    (role,) = charts.of_kind(documents, "Role").values()
    assert not charts.of_kind(documents, "ClusterRole", "ClusterRoleBinding")
    touched = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert {resource for resource, _ in touched} == {"deployments", "services", "pods", "events", "leases"}
    assert {verb for resource, verb in touched if resource == "pods"} == {"get", "list", "watch", "delete"}
    lines = ("sales", "support") if name == "everything" else ("main",)
    slots = {f"{charts.RELEASE}-policy-{line}-{slot}" for line in lines for slot in "ab"}
    for rule in role["rules"]:
        if {"patch", "delete", "update"} & set(rule["verbs"]) and rule["resources"] not in (["events"], ["pods"]):
            assert set(rule["resourceNames"]) in (slots, {f"{charts.RELEASE}-rollout"})
    (binding,) = charts.of_kind(documents, "RoleBinding").values()
    assert [subject["name"] for subject in binding["subjects"]] == [f"{charts.RELEASE}-rollout"]


@pytest.mark.parametrize("name", charts.INSTALLATIONS)
def test_what_is_one_process_alone_is_never_two_for_a_moment(name: str) -> None:
    deployments = charts.of_kind(charts.rendered(name), "Deployment")
    for one in ("trainer", "rollout"):
        assert deployments[f"{charts.RELEASE}-{one}"]["spec"]["replicas"] == 1
    for one in ("trainer", "rollout", "ledger"):
        assert deployments[f"{charts.RELEASE}-{one}"]["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize("name", ["gpu", "gpu on one node"])
def test_a_vllm_outlives_the_policy_process_beside_it(name: str) -> None:
    spec = charts.pods(charts.rendered(name))["policy"].spec
    assert [one["name"] for one in spec["initContainers"]] == ["fetch", "vllm"]
    vllm, (policy,) = spec["initContainers"][1], spec["containers"]
    assert vllm["restartPolicy"] == "Always"
    assert vllm["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "--host=127.0.0.1" in vllm["args"], "nobody but its own pod asks it"
    assert "--engine-url=http://127.0.0.1:8000" in policy["args"] and "--port=8000" in vllm["args"]
    cache = next(word.partition("=")[2] for word in spec["initContainers"][0]["args"] if word.startswith("--cache="))
    assert f"{cache}/{{policy_id}}" in vllm["args"], "it starts on the folder that was verified"
    assert {mount["mountPath"]: mount.get("readOnly") for mount in vllm["volumeMounts"]}[cache] is True
