"""What each image holds: its process starts with what its extra brings and nothing else; torch where it computes."""

import functools
import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys
import tomllib

import packaging.requirements
import pytest
import yaml
from tests import timing
from tests.deploy import charts

from trimtab.cli import app

DOCKERFILE = charts.ROOT / "docker/service.Dockerfile"
COMPOSE = charts.ROOT / "docker/compose.yaml"
COMPUTE = {"policy", "reward", "trainer"}
HEAVY = {"torch", "transformers", "triton", "numpy"}
OURS = {"trimtab", "trimtab-client", "trimtab-api"}
# Run with the names of the distributions that may be used, then the program. All others are as if not installed.
_ALONE = """
import importlib.metadata, json, sys
allowed, process = set(json.loads(sys.argv[1])), sys.argv[2]
def canonical(name): return name.lower().replace("_", "-").replace(".", "-")
there = importlib.metadata.packages_distributions()
class Absent:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in there and not {canonical(one) for one in there[top]} & allowed:
            raise ModuleNotFoundError(f"No module named {name!r} in the image of {process}", name=name)
sys.meta_path.insert(0, Absent())
import importlib
importlib.import_module(f"trimtab.{process}.app")
from trimtab.cli import app
sys.argv = ["trimtab", process, "--help"]
app.main()
"""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@functools.cache
def closure(extra: str) -> frozenset[str]:
    """Names of all distributions that `trimtab[extra]` brings, by what those installed here ask for."""
    project = tomllib.loads((charts.ROOT / "pyproject.toml").read_text())["project"]
    seen: set[tuple[str, str]] = set()
    open_: list[tuple[str, str]] = [("trimtab", ""), ("trimtab", extra)]
    while open_:
        one = open_.pop()
        if one in seen:
            continue
        seen.add(one)
        name, wanted = one
        if name == "trimtab":
            asked = project["optional-dependencies"][wanted] if wanted else project["dependencies"]
        else:
            asked = importlib.metadata.requires(name) or []
        for text in asked:
            requirement = packaging.requirements.Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                child = canonical(requirement.name)
                open_ += [(child, ""), *((child, extra_) for extra_ in requirement.extras)]
    return frozenset(name for name, _ in seen)


def test_every_process_has_an_extra_and_all_is_all_of_them() -> None:
    extras = tomllib.loads((charts.ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(app.PROCESSES) <= extras.keys()
    assert closure("all") == frozenset().union(*(closure(name) for name in app.PROCESSES))


@pytest.mark.parametrize("process", app.PROCESSES)
def test_torch_is_where_it_computes(process: str) -> None:
    assert (closure(process) >= HEAVY) is (process in COMPUTE)
    assert process in COMPUTE or not closure(process) & HEAVY
    assert "kubernetes" not in closure(process) or process == "rollout"
    assert not closure(process) & {"pytest", "uv", "mypy"}


def ran_alone(process: str, allowed: frozenset[str]) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", _ALONE, json.dumps(sorted(allowed)), process]
    return subprocess.run(words, capture_output=True, text=True, timeout=timing.PATIENCE_S, check=False)


@pytest.mark.parametrize("process", app.PROCESSES)
def test_a_process_starts_with_its_extra_alone(process: str) -> None:
    done = ran_alone(process, closure(process))
    assert done.returncode == 0, done.stderr
    assert "--drain-s" in done.stdout


def test_a_process_that_lacks_something_would_be_noticed() -> None:
    done = ran_alone("gateway", closure("gateway") - {"starlette"})
    assert done.returncode != 0
    assert "'starlette" in done.stderr


def test_the_linter_of_dockerfiles_has_nothing_to_say() -> None:
    hadolint = pathlib.Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.kubernetes
def test_the_image_runs_as_the_user_that_the_chart_names() -> None:
    final = DOCKERFILE.read_text().rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.*)$", final, re.M) == ["65532:65532"]
    assert {pod.spec["securityContext"]["runAsUser"] for pod in charts.pods(charts.rendered("small")).values()} == {
        65532
    }
    assert not re.search(r"pip install|apt-get|build-essential|gcc", final)


def test_what_the_dockerfile_copies_is_what_is_sent_to_the_builder() -> None:
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE.read_text(), re.M)
    sent = re.findall(r"^!(.*)$", (charts.ROOT / ".dockerignore").read_text(), re.M)
    assert sorted(word for words in copied for word in words.split()) == sorted(sent)
    assert all((charts.ROOT / path).exists() for path in sent)


def test_compose_runs_every_process_hardened_and_on_volumes_that_are_ours_to_write() -> None:
    compose = yaml.safe_load(COMPOSE.read_text())
    services = compose["services"]
    ours = {name: one for name, one in services.items() if one["image"].startswith("trimtab-")}
    version = tomllib.loads((charts.ROOT / "pyproject.toml").read_text())["project"]["version"]
    for one in ours.values():
        image, _, tag = one["image"].partition(":")
        assert image.removeprefix("trimtab-") in app.PROCESSES
        assert tag == version == yaml.safe_load((charts.CHART / "Chart.yaml").read_text())["appVersion"]
        # `docker compose up` refuses to put inline files into what nobody may write
        assert one["read_only"] is ("configs" not in one) and one["cap_drop"] == ["ALL"]
    assert {words[0] for one in ours.values() if (words := one["command"])} >= set(app.PROCESSES) - {"policy"}
    folders = set(
        re.findall(r"(/(?:etc|var)/\S*trimtab\S*)", DOCKERFILE.read_text().rpartition("install --directory")[2])
    )
    for name, one in services.items():
        assert set(one.get("depends_on", {})) <= services.keys()
        for volume in one.get("volumes", []):
            source, target = volume.split(":")[:2]
            assert source in compose["volumes"]
            assert name in ("kafka", "postgres") or target in folders


def test_addresses_in_compose_are_those_of_its_services() -> None:
    compose = yaml.safe_load(COMPOSE.read_text())
    services = compose["services"]
    for name, one in services.items():
        command = " ".join(one.get("command", [])) if name in app.PROCESSES else ""
        for host, port in re.findall(r"--(?:ledger|reward|feedback)-address=(\w+):(\d+)", command):
            assert f"--listen=0.0.0.0:{port}" in services[host]["command"]
    facts = json.loads(compose["configs"]["platform.json"]["content"])
    for process, address in facts["addresses"].items():
        host, _, port = address.partition(":")
        assert services[process].get("network_mode", f"service:{process}") == f"service:{host}"
        assert f"--listen=0.0.0.0:{port}" in services[process]["command"]
