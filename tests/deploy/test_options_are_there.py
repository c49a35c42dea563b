"""Every command, flag and variable that a manifest gives is one that the program takes."""

import concurrent.futures
import functools
import json
import os
import pathlib
import re
import stat
import subprocess
import sys
import tomllib

import pytest
import yaml
from tests import timing
from tests.deploy import charts

from trimtab.cli import app
from trimtab.cli.machine import platform
from trimtab.core import lines
from trimtab.rpc import secrets

pytestmark = pytest.mark.kubernetes
COMPOSE = charts.ROOT / "docker/compose.yaml"


def command_of(words: list[str]) -> str:
    return words[0] if words[0] in app.PROCESSES and words[1].startswith("-") else " ".join(words[:2])


def given() -> set[tuple[str, str]]:
    """(command, option), of containers of ours, in the chart and in docker/compose.yaml."""
    found, calls = set(), []
    for name in charts.INSTALLATIONS:
        told = {key for key in charts.settings(charts.rendered(name)) if key.startswith("TRIMTAB_")}
        for pod in charts.pods(charts.rendered(name)).values():
            for container in pod.containers:
                if "command" not in container:
                    calls.append(container["args"])
                    if container["args"][0] in app.PROCESSES:
                        command = command_of(container["args"])
                        found |= {(command, option_of(variable)) for variable in told}
    for service in yaml.safe_load(COMPOSE.read_text())["services"].values():
        if str(service["image"]).startswith("trimtab-") and "entrypoint" not in service:
            calls.append(service["command"])
            if service["command"][0] in app.PROCESSES:
                told = {key for key in service["environment"] if key.startswith("TRIMTAB_")}
                found |= {(service["command"][0], option_of(variable)) for variable in told}
    for words in calls:
        found |= {(command_of(words), word.partition("=")[0]) for word in words if word.startswith("--")}
    return found


def option_of(variable: str) -> str:
    return "--" + variable.removeprefix("TRIMTAB_").lower().replace("_", "-")


@functools.cache
def taken(command: str) -> frozenset[str]:
    """The options in its help."""
    words = [sys.executable, "-m", "trimtab.cli.app", *command.split(), "--help"]
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=timing.PATIENCE_S, check=True)
    return frozenset(re.findall(r"--[a-z][a-z-]*", done.stdout))


def test_every_option_is_in_the_help_of_its_command() -> None:
    wanted = given()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(taken, sorted({command for command, _ in wanted})))
    assert {(command, option) for command, option in wanted if option not in taken(command)} == set()
    assert {command for command, _ in wanted} == {*app.PROCESSES, "topics apply", "models fetch"}


@pytest.mark.parametrize("name", charts.INSTALLATIONS)
def test_the_lines_are_lines(name: str, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "lines.toml"
    file.write_text(charts.of_kind(charts.rendered(name), "ConfigMap")[f"{charts.RELEASE}-lines"]["data"]["lines.toml"])
    assert lines.load_lines(file)


def test_the_secrets_that_the_readme_shows_are_those_that_processes_read(tmp_path: pathlib.Path) -> None:
    readme = (charts.CHART / "README.md").read_text()
    (shown,) = re.findall(r"^```toml\n(.*?)^```", readme, re.M | re.S)
    (program,) = re.findall(r"python -c '(.*?)'", readme)
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=timing.PATIENCE_S)
    made = tmp_path / "secrets.toml"
    assert secrets.load(made).api_keys[0].tenant == "acme"
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert tomllib.loads(shown).keys() == tomllib.loads(made.read_text()).keys()
    for name, value in tomllib.loads(shown).items():
        assert type(value) is type(tomllib.loads(made.read_text())[name])


def test_a_folder_with_what_the_toolbox_mounts_is_a_platform_to_commands(tmp_path: pathlib.Path) -> None:
    documents = charts.rendered("small")
    told = charts.of_kind(documents, "ConfigMap")[f"{charts.RELEASE}-toolbox"]["data"]
    (container,) = charts.pods(documents)["toolbox"].spec["containers"]
    folder = f"{container['workingDir']}/.trimtab"
    mounted = {mount["subPath"] for mount in container["volumeMounts"] if mount["mountPath"].startswith(f"{folder}/")}
    assert mounted == {*told, "lines.toml", "secrets.toml"}
    for name, text in told.items():
        (tmp_path / name).write_text(text)
    layout = platform.Layout(tmp_path)
    assert layout.log_url == charts.settings(documents)["TRIMTAB_LOG_URL"]
    assert layout.registry_url == charts.settings(documents)["TRIMTAB_REGISTRY_URL"]
    assert layout.read_facts() == platform.Facts(**json.loads(told["platform.json"]))
    assert {layout.lines.name, layout.secrets.name} <= mounted
