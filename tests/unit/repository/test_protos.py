"""What was released is not taken back: `make lint` compares protos/ with released.binpb, and finds what breaks."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

PROTOS = pathlib.Path(__file__).parents[3] / "protos"
_COMPLETION = "trimtabapi/completion/v1/completion.proto"
_FEEDBACK = "trimtabapi/feedback/v1/feedback.proto"
_SERVICE = "trimtabapi/feedback/v1/feedback_service.proto"
_POLICY = "trimtabapi/policy/v1/policy_service.proto"


def buf(*arguments: str) -> "subprocess.CompletedProcess[str]":
    found = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": found}
    return subprocess.run(["buf", *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False)


def breaking(protos: pathlib.Path) -> "subprocess.CompletedProcess[str]":
    return buf("breaking", str(protos), "--against", str(PROTOS / "released.binpb"))


@pytest.fixture
def changed(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the protos, for a test to change."""
    return pathlib.Path(shutil.copytree(PROTOS, tmp_path / "protos", ignore=shutil.ignore_patterns("gen")))


def replace(protos: pathlib.Path, file: str, old: str, new: str) -> None:
    source = (protos / file).read_text()
    assert source.count(old) == 1
    (protos / file).write_text(source.replace(old, new))


def test_the_protos_of_this_version_keep_what_was_released() -> None:
    found = breaking(PROTOS)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (_COMPLETION, "  string engine = 14;\n", "", 'Previously present field "14" with name "engine"'),
        (_COMPLETION, "string engine = 14;", "string engine = 21;", 'Previously present field "14"'),
        (_COMPLETION, "double latency_s = 12;", "uint64 latency_s = 12;", 'changed type from "double" to "uint64"'),
        (_COMPLETION, "string engine = 14;", "string engine_name = 14;", 'changed name from "engine" to "engine_name"'),
        (_FEEDBACK, "SIGNAL_KIND_COPY = 1;", "SIGNAL_KIND_COPIED = 1;", 'changed name from "SIGNAL_KIND_COPY"'),
        (_FEEDBACK, "  SIGNAL_KIND_ABANDON = 4;\n", "", 'Previously present enum value "4"'),
        (_SERVICE, "  rpc Send(SendRequest) returns (SendResponse);\n", "", 'Previously present RPC "Send"'),
        (_POLICY, "optional bool store = 7;", "bool store = 7;", 'cardinality from "optional with explicit presence"'),
    ],
)
def test_a_change_that_breaks_what_was_released_is_found(
    changed: pathlib.Path, file: str, old: str, new: str, said: str
) -> None:
    replace(changed, file, old, new)
    found = breaking(changed)
    assert found.returncode != 0
    assert said in found.stdout


def test_what_is_added_breaks_nothing(changed: pathlib.Path) -> None:
    replace(changed, _COMPLETION, "string engine = 14;", "string engine = 14;\n  string region = 21;")
    replace(changed, _FEEDBACK, "SIGNAL_KIND_ABANDON = 4;", "SIGNAL_KIND_ABANDON = 4;\n  SIGNAL_KIND_SHARE = 5;")
    replace(changed, _SERVICE, "service FeedbackService {", "service FeedbackService {\n  rpc More(A) returns (B);")
    with (changed / _SERVICE).open("a") as file:
        file.write("\nmessage A {}\n\nmessage B {}\n")
    found = breaking(changed)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
