"""What `trimtab` says to a person who asks for help, mistypes, or is in the wrong folder."""

import concurrent.futures
import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer.main

from trimtab.cli import app
from trimtab.cli.commands import root
from trimtab.core import runs
from trimtab.rpc import secrets

TRIMTAB = pathlib.Path(sys.executable).with_name("trimtab")
Ended = subprocess.CompletedProcess[str]
Typed = dict[tuple[str, ...], Ended]
# What the help of each command has to teach.
TAUGHT = {
    ("up",): ("--policy", "--line", "--port", "8080", "--grpc-port", "8081", "--state", "safetensors", "Ctrl-C"),
    ("demo",): ("--seed", "--state", "--json", "promotion", "rollback", "Exit code 0"),
    ("eval",): ("--prompts", "--preferences", "--against", "--reward", "--output", "messages", "chosen", "95 %"),
    **{
        ("feedback", "send", kind): ("--id", "--rater", "--surface", "--criterion", "--state", "--json", *own)
        for kind, own in {
            "thumb": ("ANSWER", "up|down", "--supersedes"),
            "rating": ("ANSWER", "--scale", "--supersedes"),
            "comparison": ("--strength", "--tie", "--supersedes", "same session"),
            "ranking": ("ANSWER...", "ID:0=ID:1", "--supersedes"),
            "edit": ("ANSWER", "standard input", "--supersedes"),
            "demonstration": ("--line", "standard input", "--supersedes"),
            "critique": ("ANSWER", "--span", "--supersedes"),
            "signal": ("ANSWER", "regenerate", "--supersedes"),
            "retraction": ("--reason", "take back"),
        }.items()
    },
    ("feedback", "import"): ("--format", "--state", "--json", "hh-rlhf", ".gz", "counts nothing twice"),
    ("feedback", "judge"): ("--file", "--url", "--model", "--reward", "--criterion", "--json", "both orders", "twice"),
    ("feedback", "trace"): ("ID", "--state", "--json", "completion, feedback", "example"),
    ("deadletter", "list"): (
        "--topic",
        "--consumer",
        "--matching",
        "--settled",
        "--log",
        "--json",
        "one line",
    ),
    ("deadletter", "show"): ("SOURCE", "feedback/3@5", "--log", "--json", "sealed", "first bytes"),
    ("deadletter", "replay"): ("SOURCE...", "--all", "--matching", "--reason", "audit", "effect of one", "Exit code 1"),
    ("deadletter", "drop"): ("SOURCE...", "--all", "--matching", "--reason", "audit", "retention"),
    ("deadletter", "resume"): ("CONSUMER", "--letters", "--reason", "audit", "limit"),
    ("models", "list"): ("--state", "--json", "oldest first"),
    ("models", "show"): ("--state", "--json", "beginning"),
    ("models", "lineage"): ("--state", "--json", "beginning", "base model", "released"),
    ("models", "import"): ("FOLDER", "--line", "--state", "safetensors", "adopt"),
    ("models", "fetch"): ("model", "--registry", "--cache", "s3://", "digest", "verifies again"),
    ("status",): ("--state", "--json", "processes", "lines"),
    ("logs",): ("PROCESS", "--follow", "--run", "--lines", "--state"),
    ("down",): ("--state", "another terminal", "waits"),
    ("backup",): ("FOLDER", "--state", "--json", "while it runs", "secrets"),
    ("restore",): ("FOLDER", "--state", "--json", "byte by byte", "goes on"),
    ("audit",): ("--state", "--line", "--limit", "--json", "who"),
    ("quarantine", "list"): ("--state", "--line", "--json", "worse"),
    ("quarantine", "release"): ("--state", "--reason", "--json", "audit"),
    ("rollout", "status"): ("--state", "--line", "--watch", "--json", "live"),
    ("rollout", "history"): ("RELEASE", "--state", "--line", "--json", "verdict"),
    ("rollout", "show"): ("RELEASE", "--report", "--state", "--json", "guardrails", "SVG"),
    ("rollout", "audit"): ("RELEASE", "--state", "--json", "Exit code 0", "from the log"),
    ("rollout", "start"): ("--state", "--force", "canary", "reason"),
    ("rollout", "adopt"): ("--reason", "--state", "anchor", "audit"),
    ("rollout", "promote"): ("--reason", "--state", "audit", "without waiting"),
    ("rollout", "pause"): ("--reason", "--state", "audit", "Hold"),
    ("rollout", "resume"): ("--reason", "--state", "audit", "Go on"),
    ("rollout", "abort"): ("--reason", "--state", "audit", "Withdraw"),
    ("rollout", "undo"): ("--reason", "--state", "audit", "Go back"),
    ("rollout", "simulate"): ("--sessions", "--response", "--difference", "--likeness", "--json", "How long a verdict"),
    ("topics", "diff"): ("--log", "--replicas", "--state", "--json", "kafka://", "Exit code 0"),
    ("topics", "apply"): ("--log", "--replicas", "--state", "--json", "never changed", "exit code is 1"),
    ("train", "runs"): ("--state", "--json", "oldest first"),
    ("train", "show"): ("--state", "--json", "--watch", "beginning", "gates in words"),
    ("train", "report"): ("--state", "--output", "--samples", "HTML", "lineage"),
    ("train", "diagnose"): ("--state", "--json", "what was seen", "setting"),
    ("train", "sampler"): ("--state", "beginning", "newer weights", "ends with it"),
    ("train", "start"): ("--parent", "--dataset", "--set", "--seed", "--watch", *(kind.value for kind in runs.RunKind)),
    ("train", "cancel"): ("--reason", "--state", "audit"),
    ("train", "reproduce"): ("--state", "--json", "Exit code 0", "byte by byte"),
}
# Of each process, beside the flags that all have.
PROCESS_FLAGS = {
    "gateway": ("--http-listen", "--feedback-address", "--max-body-bytes"),
    "policy": ("--model-id", "--line", "--threads"),
    "reward": ("--max-loaded", "--threads"),
    "feedback": (),
    "ledger": ("--database",),
    "trainer": ("--ledger-address", "--state"),
    "rollout": ("--ledger-address", "--reward-address", "--state", "--policy-command"),
}
SHARED_FLAGS = (
    *("--listen", "--log-url", "--secrets-file", "--metrics-port", "--drain-s", "--log-level"),
    *("--kafka-security-protocol", "--kafka-password-file"),
)
# Asked in processes of their own.
MISTYPED = (("up", "--nope"), ("gateway", "--nope"), ("feedback", "--metrics-port=x"))
HELPS = (("--help",), ("up", "--help"), *((name, "--help") for name in PROCESS_FLAGS))


@pytest.fixture(scope="module")
def typed() -> Typed:
    """What a person gets to see of the installed command, several at once."""

    def ended(arguments: tuple[str, ...]) -> Ended:
        return subprocess.run((TRIMTAB, *arguments), capture_output=True, text=True, timeout=60, check=False)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return dict(zip((*HELPS, *MISTYPED), pool.map(ended, (*HELPS, *MISTYPED)), strict=True))


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a command that is run here."""
    with pytest.raises(SystemExit) as end:
        root.run(list(arguments))
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def is_one_sentence(said: str) -> bool:
    return said.count("\n") == 1 and said.endswith(".\n")


def words(page: str) -> str:
    """A page without its frames and line breaks."""
    return " ".join(page.replace("│", " ").split())


def leaves(command: typer.main.TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, child in command.commands.items():
        yield from leaves(child, (*path, name)) if hasattr(child, "commands") else [(*path, name)]


def test_the_lists_in_this_file_name_every_command_and_process() -> None:
    assert set(leaves(typer.main.get_command(root.app))) == set(TAUGHT)
    assert tuple(PROCESS_FLAGS) == app.PROCESSES


def test_trimtab_help_names_every_command_and_every_process(typed: Typed) -> None:
    said = typed["--help",]
    assert (said.returncode, said.stderr) == (0, "")
    for name in {path[0] for path in TAUGHT} | set(app.PROCESSES):
        assert name in re.findall(r"\w+", said.stdout)


@pytest.mark.parametrize("path", TAUGHT, ids=" ".join)
def test_help_of_each_command_teaches(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ended(capsys, *path, "--help")
    assert (code, err) == (0, "")
    page = words(out)
    assert f"{' '.join(path)} [OPTIONS]" in page
    for taught in TAUGHT[path]:
        assert taught in page


def test_help_of_a_command_teaches_the_same_in_a_process_of_its_own(typed: Typed) -> None:
    said = typed["up", "--help"]
    assert (said.returncode, said.stderr) == (0, "")
    for taught in ("Usage: trimtab up [OPTIONS]", *TAUGHT["up",]):
        assert taught in words(said.stdout)


@pytest.mark.parametrize("name", PROCESS_FLAGS)
def test_help_of_each_process_teaches(name: str, typed: Typed) -> None:
    said = typed[name, "--help"]
    assert (said.returncode, said.stderr) == (0, "")
    for flag in (*SHARED_FLAGS, *PROCESS_FLAGS[name]):
        assert flag in said.stdout


@pytest.mark.parametrize("name", sorted({path[0] for path in TAUGHT} & set(PROCESS_FLAGS)))
def test_help_of_a_name_that_is_a_process_and_a_group_of_commands_teaches_both(name: str, typed: Typed) -> None:
    for path in TAUGHT:
        if path[0] == name:
            assert path[1] in re.findall(r"[\w-]+", typed[name, "--help"].stdout)


@pytest.mark.parametrize("group", ["", "models", "train"])
def test_a_group_without_a_command_shows_its_help(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, err = ended(capsys, *group.split())
    for path in TAUGHT:
        assert path[0] != group or path[1] in out.split()
    assert "Usage" in out
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("up", "--nope"), "No such option: --nope"),
        (("up", "--port", "http"), "Invalid value for '--port'"),
        (("rollout", "promote"), "Missing option '--reason'"),
        (("feedback", "trace"), "Missing argument 'ID'"),
        (("feedback", "import", "here", "--format", "hh-rlhf", "--stats"), "No such option: --stats"),
        (("models", "delete"), "No such command 'delete'"),
        (("uo",), "No such command 'uo'"),
    ],
)
def test_a_command_mistyped_is_named_with_its_help_and_exit_2(
    arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ended(capsys, *arguments)
    assert (code, out) == (2, "")
    assert sentence in words(err)
    assert "--help' for help" in words(err)
    assert "Traceback" not in err


def test_a_bad_flag_is_exit_2_without_a_traceback_in_a_process_of_its_own(typed: Typed) -> None:
    said = typed["up", "--nope"]
    assert (said.returncode, said.stdout) == (2, "")
    assert "No such option: --nope" in said.stderr
    assert "Try 'trimtab up --help' for help." in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize("arguments", MISTYPED[1:], ids=" ".join)
def test_a_bad_flag_of_a_process_is_one_sentence_and_exit_2(arguments: tuple[str, ...], typed: Typed) -> None:
    said = typed[arguments]
    assert (said.returncode, said.stdout) == (2, "")
    assert is_one_sentence(said.stderr)
    assert arguments[1].partition("=")[0] in said.stderr


def test_a_bad_flag_of_a_process_points_to_help_that_is_there(typed: Typed) -> None:
    assert "`trimtab gateway --help`" in typed["gateway", "--nope"].stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("feedback", "trace", "an-id"),
        ("feedback", "trace", "an-id", "--json"),
        ("feedback", "send", "thumb", "an-id", "up"),
        ("feedback", "send", "retraction", "an-id"),
        ("eval", "stable", "--prompts", __file__),
        ("models", "list"),
        ("models", "show", "abc"),
        ("models", "lineage", "abc"),
        ("train", "runs"),
        ("train", "show", "abc"),
        ("train", "report", "abc"),
        ("train", "start", "sft", "--parent", "abc"),
        ("train", "cancel", "abc", "--reason", "why"),
        ("rollout", "status", "--json"),
        ("deadletter", "list"),
        ("deadletter", "show", "feedback/3@5"),
        ("deadletter", "replay", "--all", "--reason", "why"),
        ("deadletter", "drop", "feedback/3@5", "--reason", "why"),
        ("deadletter", "resume", "ledger", "--reason", "why"),
        ("rollout", "start", "abc"),
        ("rollout", "adopt", "abc", "--reason", "why"),
        *(("rollout", verb, "--reason", "why") for verb in ("promote", "pause", "resume", "abort", "undo")),
    ],
    ids=" ".join,
)
def test_a_folder_without_a_platform_is_one_sentence_and_exit_1(
    arguments: tuple[str, ...], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "nothing here"
    code, out, err = ended(capsys, *arguments, "--state", str(folder))
    assert (code, out) == (1, "")
    assert err.startswith("trimtab: ")
    assert is_one_sentence(err)
    assert str(folder) in err
    assert not folder.exists()


def test_an_import_into_no_platform_and_of_no_known_format_are_sentences(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pairs.jsonl"
    asked = "\n\nHuman: A?\n\nAssistant:"
    file.write_text(json.dumps({"chosen": f"{asked} Yes.", "rejected": f"{asked} No."}))
    for format_, remedy in (("hh-rlhf", str(tmp_path)), ("alpaca", "use hh-rlhf")):
        code, out, err = ended(capsys, "feedback", "import", str(file), "--format", format_, "--state", str(tmp_path))
        assert (code, out) == (1, "")
        assert is_one_sentence(err)
        assert remedy in err
    file.write_text("{}\n")
    code, _, err = ended(capsys, "feedback", "import", str(file), "--format", "hh-rlhf", "--state", str(tmp_path))
    assert (code, is_one_sentence(err)) == (1, True)
    assert "line 1" in err


def test_what_cannot_be_served_is_a_sentence_with_its_remedy(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    (pickled / "pytorch_model.bin").write_bytes(b"")
    state = ("--state", str(tmp_path / "state"))
    for flags, remedy in (
        (("--policy", str(tmp_path / "absent")), "name a Hugging Face model folder"),
        (("--policy", str(pickled)), "`save_pretrained`"),
        (("--line", "support"), "use one of main"),
    ):
        code, _, err = ended(capsys, "up", *flags, *state)
        assert (code, is_one_sentence(err)) == (1, True), err
        assert f"`{flags[0]}`" in err
        assert remedy in err


def test_a_line_is_served_to_its_own_tenant_only(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    secrets.create(tmp_path / "secrets.toml", "acme")
    (tmp_path / "lines.toml").write_text('[lines.support]\ntenant = "zenith"\n')
    code, _, err = ended(capsys, "up", "--line", "support", "--state", str(tmp_path))
    assert (code, is_one_sentence(err)) == (1, True), err
    assert "belongs to tenant 'zenith'" in err
    assert "to tenant 'acme'" in err


def test_the_demo_writes_into_no_folder_that_holds_something(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.write_text("precious")
    code, _, err = ended(capsys, "demo", "--state", str(tmp_path))
    assert (code, is_one_sentence(err)) == (1, True)
    assert "name a new folder" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert mine.read_text() == "precious"
