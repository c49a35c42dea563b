"""Commands from a folder that only names a platform: its doors, log and registry, as in the toolbox of the chart."""

import json
import os
import pathlib
import shutil
import sys

import pytest
from tests.integration.commands.conftest import Recorded
from tools import record_cli

from trimtab.cli.commands import root


@pytest.fixture
def folder(recorded: Recorded, tmp_path: pathlib.Path) -> pathlib.Path:
    made, there = tmp_path / "operator", recorded.layout
    made.mkdir()
    for path in (there.facts, there.lines, there.secrets):
        shutil.copy(path, made / path.name)
        if os.geteuid():  # root writes it all the same
            (made / path.name).chmod(0o400)
    (made / "log.url").write_text(there.log_url)
    (made / "registry.url").write_text(there.registry_url)
    return made


def told(folder: pathlib.Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    try:
        root.run([*words, "--state", str(folder)])
    except SystemExit as end:
        sys.stderr.write(f"exit {end.code}")
    said = capsys.readouterr()
    assert said.err.endswith("exit 0"), said.err
    return said.out


def test_everything_that_reads_says_the_same_as_on_the_platform_s_own_folder(
    recorded: Recorded, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ("models", "list"),
        ("train", "runs"),
        ("rollout", "history"),
        ("audit",),
        ("quarantine", "list"),
        ("deadletter", "list"),
    ):
        assert json.loads(told(folder, capsys, *words, "--json")) == recorded.told(*words), words
    assert json.loads(told(folder, capsys, "status", "--json"))["lines"] == recorded.told("status")["lines"]


def test_a_model_is_imported_into_the_platform_s_registry(
    recorded: Recorded, folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    record_cli.write_policy(model)
    (model / "generation_config.json").write_text('{"temperature": 0.5}')
    made = told(folder, capsys, "models", "import", str(model)).strip()
    assert made in {one["id"] for one in recorded.told("models", "list")}
    assert not (folder / "registry").exists()
    assert made in {one["target"] for one in recorded.told("audit")}
