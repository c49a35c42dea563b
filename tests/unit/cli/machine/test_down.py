"""`trimtab down` ends a platform whose supervisor runs, and what one that was killed has left."""

import pathlib
import subprocess
import sys
import time

import pytest
from tests import timing

from trimtab.cli.machine import supervisor
from trimtab.cli.operators import stopping
from trimtab.core import errors
from trimtab.rollout import processes

KEEPER = """
import pathlib, signal, sys, threading
from trimtab.cli.machine import supervisor
from trimtab.rollout import processes
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
keeper = supervisor.Supervisor(pathlib.Path(sys.argv[1]), drain_s=2.0)
keeper.ensure(processes.ProcessSpec("sleeper", (sys.executable, "-c", "import time; time.sleep(600)")))
with keeper.alone():
    keeper.run(stop)
"""


@pytest.fixture
def keeper(tmp_path: pathlib.Path) -> "subprocess.Popen[bytes]":
    """A supervisor with one process that runs."""
    started = subprocess.Popen((sys.executable, "-c", KEEPER, str(tmp_path)))
    table = processes.Table(tmp_path)
    deadline = time.monotonic() + timing.PATIENCE_S
    while not (row := table.get("sleeper")) or row.status is not processes.Status.RUNNING:
        assert time.monotonic() < deadline and started.poll() is None
        time.sleep(0.05)
    table.close()
    return started


@pytest.mark.parametrize("killed", [False, True])
def test_nothing_is_left_running_and_it_says_what_was_stopped(
    keeper: "subprocess.Popen[bytes]", killed: bool, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert supervisor.holder(tmp_path) == keeper.pid
    if killed:
        keeper.kill()
        keeper.wait()
        assert supervisor.holder(tmp_path) == 0
    assert supervisor.left_running(tmp_path)
    stopping.down(tmp_path)
    assert keeper.wait(timing.PATIENCE_S) == (-9 if killed else 0)
    assert supervisor.left_running(tmp_path) == set()
    assert "1 processes: sleeper" in capsys.readouterr().out
    with pytest.raises(errors.NotFound, match="running platform"):
        stopping.down(tmp_path)


def test_a_folder_that_is_no_platforms_is_named_and_left_as_it_is(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.NotFound, match="platform in"):
        stopping.down(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
