"""A platform one of whose consumers halts: it serves, says what stands still and what to do, and goes on when told."""

import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.faults import poison
from tests.unit.ledger import making

from trimtab.bus import port, topics
from trimtab.bus.sqlite import SqliteLog
from trimtab.cli.commands import root
from trimtab.cli.machine import platform

LIMIT_S = 60.0
# Longer than any back-off before a second restart.
WATCHED_S = 4.0


def typed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        root.run(list(arguments))
    assert not ended.value.code, capsys.readouterr().err
    return capsys.readouterr().out


def status(capsys: pytest.CaptureFixture[str], state: pathlib.Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(typed(capsys, "status", "--json", "--state", str(state)))
    return found | {"ledger": next(one for one in found["processes"] if one["name"] == "ledger")}


@pytest.mark.slow
def test_a_consumer_that_halts_is_named_with_its_remedy_and_is_not_started_again_and_again(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = platform.Layout(tmp_path)
    layout.lines.write_text(f'[lines.{making.LINE}]\ntenant = "{making.TENANT}"\n')
    live = platform.Platform(tmp_path, making.TENANT, making.LINE)
    with live.running():
        assert status(capsys, tmp_path)["halted"] == []
        log = SqliteLog(tmp_path / "log.sqlite")
        votes = [poison.poisoned("bad protobuf", vote) for _, vote in poison.votes_and_answers(60)]
        poison.append(log, votes)
        log.close()
        pid = _halted(capsys, tmp_path)["ledger"]["pid"]
        time.sleep(WATCHED_S)
        said = status(capsys, tmp_path)
        assert (said["ledger"]["pid"], said["ledger"]["restarts"]) == (pid, 0)
        assert [one["consumer"] for one in said["halted"]] == said["ledger"]["halted"] == ["ledger"]
        told = " ".join(typed(capsys, "status", "--state", str(tmp_path)).split())
        assert "halted (ledger)" in told
        assert "20 records in a row were refused already" in told
        assert "`trimtab deadletter resume ledger --reason WHY` lets it go on." in told

    # what stands still keeps nothing else from starting
    with platform.Platform(tmp_path, making.TENANT, making.LINE).running():
        assert _halted(capsys, tmp_path)["ledger"]["restarts"] == 0
        typed(
            capsys, "deadletter", "resume", "ledger", "--letters", "40", "--reason", "a broken import",
            "--state", str(tmp_path),
        )  # fmt: skip
        deadline = time.monotonic() + LIMIT_S
        while len(_listed(capsys, tmp_path, "deadletter", "list")) < 60:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert status(capsys, tmp_path)["halted"] == []
        acts = _listed(capsys, tmp_path, "audit")
        assert [one["act"] for one in acts] == ["deadletter.resume"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topic", "consumer"), [(topics.ROLLOUTS, "gateway/rollouts"), (topics.MODELS, "rollout/models")]
)
def test_a_platform_that_waits_for_an_operator_says_so_and_comes_up_by_itself(
    topic: topics.Topic, consumer: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    log = SqliteLog(state / "log.sqlite")
    unreadable = [port.NewRecord(topic.name, f"key {number}".encode(), b"no such record") for number in range(40)]
    log.append(unreadable).result()
    log.close()
    with up(tmp_path, state) as screen:
        until_said(screen, f"`trimtab deadletter resume {consumer} --reason WHY` lets it go on.")
        process = consumer.partition("/")[0]
        assert f"waiting {process} does not serve before it has read topic {topic.name} to its end." in screen()
        assert "base URL" not in screen()
        refused = {one["consumer"] for one in _listed(capsys, state, "deadletter", "list")}
        assert consumer in refused
        assert consumer in {one["consumer"] for one in status(capsys, state)["halted"]}
        arguments = ("--letters", "40", "--reason", "a broken import", "--state", str(state))
        typed(capsys, "deadletter", "resume", consumer, *arguments)
        until_said(screen, "base URL")


@contextlib.contextmanager
def up(folder: pathlib.Path, state: pathlib.Path) -> Iterator[Callable[[], str]]:
    """`trimtab up` as an operator starts it; what it has said so far, in one line."""
    said = folder / "screen"
    command = [sys.executable, "-m", "trimtab.cli.app", "up", "--state", str(state), "--port", "0", "--grpc-port", "0"]
    with said.open("wb") as output:
        running = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield lambda: " ".join(said.read_text().split())
        assert running.poll() is None, said.read_text()
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(LIMIT_S)


def until_said(screen: Callable[[], str], words: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while words not in screen():
        assert time.monotonic() < deadline, screen()
        time.sleep(0.1)


def _listed(capsys: pytest.CaptureFixture[str], state: pathlib.Path, *command: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(typed(capsys, *command, "--json", "--state", str(state)))
    return found


def _halted(capsys: pytest.CaptureFixture[str], state: pathlib.Path) -> dict[str, Any]:
    deadline = time.monotonic() + LIMIT_S
    while not (said := status(capsys, state))["halted"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return said
