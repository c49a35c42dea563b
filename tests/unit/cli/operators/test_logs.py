"""`trimtab logs` finds what processes and runs wrote, and goes on with what is added."""

import pathlib
import signal
import subprocess
import sys

import pytest
from tests import timing

from trimtab.cli.operators import logfiles
from trimtab.core import errors


@pytest.fixture
def state(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "logs").mkdir()
    for name in ("gateway", "policy-abc", "policy-abd"):
        (tmp_path / "logs" / f"{name}.log").write_text("".join(f"{name} line {number}\n" for number in range(9)))
    run = tmp_path / "trainer" / "runs" / "run-123"
    run.mkdir(parents=True)
    (run / "job.log").write_text("epoch 1\nepoch 2\n")
    return tmp_path


def shown(state: pathlib.Path, capsys: pytest.CaptureFixture[str], process: str = "", run: str = "") -> list[str]:
    logfiles.show_logs(state, process, run, 2, follow=False)
    return capsys.readouterr().out.splitlines()


def test_the_last_lines_of_one_process_stand_alone_and_of_several_under_their_names(
    state: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(state, capsys, "gateway") == ["gateway line 7", "gateway line 8"]
    assert shown(state, capsys, "policy-abd") == ["policy-abd line 7", "policy-abd line 8"]
    assert [line.split()[0] for line in shown(state, capsys)] == ["gateway"] * 2 + ["policy-abc"] * 2 + [
        "policy-abd"
    ] * 2


@pytest.mark.parametrize("beginning", ["run-123", "run-1", "12"])
def test_a_run_is_found_by_the_beginning_of_its_id(
    state: pathlib.Path, capsys: pytest.CaptureFixture[str], beginning: str
) -> None:
    assert shown(state, capsys, run=beginning) == ["epoch 1", "epoch 2"]


def test_what_is_not_there_is_named_with_what_is(state: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.InvalidField, match="gateway, policy-abc, policy-abd"):
        logfiles.show_logs(state, "engine", "", 2, follow=False)
    with pytest.raises(errors.NotFound, match="log of a run 'run-9'"):
        logfiles.show_logs(state, "", "run-9", 2, follow=False)
    with pytest.raises(errors.NotFound, match="logs in"):
        logfiles.show_logs(tmp_path / "elsewhere", "", "", 2, follow=False)


def test_following_tells_whole_lines_as_they_are_added_until_ctrl_c(state: pathlib.Path) -> None:
    command = (sys.executable, "-m", "trimtab.cli.app", "logs", "gateway", "-n", "1", "-f", "--state", str(state))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "gateway line 8\n"
        with (state / "logs" / "gateway.log").open("a") as file:
            file.write("half a ")
            file.flush()
            file.write("line\n")
        assert following.stdout.readline() == "half a line\n"
        following.send_signal(signal.SIGINT)
        assert following.wait(timing.PATIENCE_S) == 130
