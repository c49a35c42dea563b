"""The demo ends when it is told to, whatever it is doing, and leaves nothing running."""

import pathlib
import signal
import subprocess

import psutil
import pytest
from tests import timing
from tests.integration.loop import living

pytestmark = pytest.mark.slow


def processes_of(state: pathlib.Path) -> list[psutil.Process]:
    """What runs for a state folder, besides this test."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != psutil.Process().pid and any(str(state) in said for said in process.environ().values()):
                found.append(process)
        except psutil.Error:  # it has ended meanwhile
            continue
    return found


@pytest.mark.parametrize("moment", ["starting the processes", "loading"])
def test_a_demo_that_is_told_to_end_leaves_nothing_running(tmp_path: pathlib.Path, moment: str) -> None:
    state, said = tmp_path / "state", tmp_path / "said"
    with said.open("wb") as output:
        demo = subprocess.Popen(
            (*living.COMMAND, "demo", "--state", str(state)), stdout=output, stderr=subprocess.STDOUT
        )
    if moment == "loading":
        timing.until(lambda: moment in said.read_text(), "a training job", 90.0)
    else:
        timing.until(lambda: bool(processes_of(state)), "the first process", 60.0)
    demo.send_signal(signal.SIGTERM)
    assert demo.wait(60) != 0
    assert "Traceback" not in said.read_text()
    assert processes_of(state) == []
