"""Completion as bash asks for it: its own script, sourced by a real bash, and its own function called."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

TRIMTAB = pathlib.Path(sys.executable).with_name("trimtab")
POLICY, REWARD = "ab" * 32, "ad" * 32
# What bash does when a person presses the tabulator after the last word.
PRESS = """
source <(trimtab --show-completion)
complete -p trimtab
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_trimtab_completion trimtab "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a platform's state where commands look for it: two models, two runs, a torn manifest."""
    folder = tmp_path_factory.mktemp("work")
    manifests = folder / ".trimtab" / "registry" / "manifests"
    manifests.mkdir(parents=True)
    for model_id, kind in ((POLICY, "policy"), (REWARD, "evaluation_reward")):
        (manifests / f"{model_id}.json").write_text(json.dumps({"kind": kind, "line": "main"}))
    (manifests / f"{'ae' * 32}.json").write_text("{")
    for run in ("run-1a", "run-2b"):
        (folder / ".trimtab" / "trainer" / "runs" / run).mkdir(parents=True)
    return folder


def offered(folder: pathlib.Path, *words: str) -> list[str]:
    said = subprocess.run(
        ("bash", "--norc", "-c", PRESS, "bash", *words),
        cwd=folder,
        env=os.environ | {"PATH": f"{TRIMTAB.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert said.stderr == ""
    registered, *offers = said.stdout.splitlines()
    assert registered == "complete -o default -F _trimtab_completion trimtab"
    return [offer for offer in offers if offer]


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        (("mod",), ["models"]),
        (("feedback", "send", "r"), ["rating", "ranking", "retraction"]),
        (("models", "lineage", ""), [POLICY[:12], REWARD[:12], "ae" * 6]),
        (("models", "show", POLICY[:20]), [POLICY[:20]]),
        (("rollout", "start", "a"), [POLICY[:12]]),
        (("train", "report", "run-"), ["run-1a", "run-2b"]),
        (("eval", "--reward", ""), [REWARD[:12]]),
        (("eval", "s"), ["stable"]),
        (("models", "show", "--state", "elsewhere", ""), []),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)
def test_bash_offers_commands_and_ids(folder: pathlib.Path, words: tuple[str, ...], offers: list[str]) -> None:
    assert offered(folder, "trimtab", *words) == offers
