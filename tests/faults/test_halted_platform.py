"""A platform one of whose consumers halts: it serves, says what stands still and what to do, and goes on when told."""

import json
import pathlib
import time
from typing import Any

import pytest
from tests.faults import poison
from tests.unit.ledger import making

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


def _listed(capsys: pytest.CaptureFixture[str], state: pathlib.Path, *command: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(typed(capsys, *command, "--json", "--state", str(state)))
    return found


def _halted(capsys: pytest.CaptureFixture[str], state: pathlib.Path) -> dict[str, Any]:
    deadline = time.monotonic() + LIMIT_S
    while not (said := status(capsys, state))["halted"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return said
