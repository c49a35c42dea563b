"""The supervisor makes the table true with real child processes: started, restarted, stopped in order."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from tests import timing

from trimtab.cli.machine import supervisor
from trimtab.core import errors
from trimtab.rollout import processes

LINGER = "import time; print('up', flush=True); time.sleep(600)"


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in pathlib.Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


class Running:
    """A supervisor on a thread of its own."""

    def __init__(self, state: pathlib.Path, drain_s: float = 5.0, callers: tuple[str, ...] = ()) -> None:
        self.supervisor = supervisor.Supervisor(state, callers=callers, drain_s=drain_s)
        self.table = self.supervisor.table
        self._stop = threading.Event()
        self._alone = contextlib.ExitStack()
        self._alone.enter_context(self.supervisor.alone())
        self._thread = threading.Thread(target=self.supervisor.run, args=(self._stop,))
        self._thread.start()

    def start(self, name: str, code: str, env: dict[str, str] | None = None) -> processes.Row:
        return self.supervisor.ensure(processes.ProcessSpec(name, (sys.executable, "-c", code), env or {}))

    def row(self, name: str) -> processes.Row:
        row = self.table.get(name)
        assert row is not None
        return row

    def running(self, name: str) -> bool:
        return self.row(name).status is processes.Status.RUNNING

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._alone.close()


@pytest.fixture
def running(tmp_path: pathlib.Path) -> Iterator[Running]:
    one = Running(tmp_path / "state")
    yield one
    one.stop()


def test_a_wanted_process_runs_at_the_address_it_was_given_with_its_environment_and_a_log(running, tmp_path) -> None:
    out = tmp_path / "seen.json"
    code = (
        f"import json,os,sys,time; print('hello'); out = open({str(out)!r}, 'w'); "
        "out.write(json.dumps([sys.argv[1], os.environ['COLOUR']])); out.close(); time.sleep(600)"
    )
    spec = processes.ProcessSpec("one", (sys.executable, "-uc", code, "{address}"), {"COLOUR": "blue"})
    row = running.supervisor.ensure(spec)
    timing.until(lambda: out.exists() and out.read_text().endswith("]"))
    assert json.loads(out.read_text()) == [row.address, "blue"]
    assert row.address.startswith("127.0.0.1:")
    assert "hello" in (tmp_path / "state" / "logs" / "one.log").read_text()
    assert running.supervisor.ensure(spec).address == row.address


def test_an_address_that_was_asked_for_is_kept_until_another_one_is(tmp_path) -> None:
    table = processes.Table(tmp_path)

    def ensured(address: str) -> tuple[str, tuple[str, ...]]:
        row = table.ensure(processes.ProcessSpec("one", ("listen", processes.ADDRESS), address=address))
        return row.address, row.argv

    free, _ = ensured("")
    for asked, given in (("", free), ("127.0.0.1:8081", "127.0.0.1:8081"), ("", "127.0.0.1:8081"), (free, free)):
        assert ensured(asked) == (given, ("listen", given))


def test_a_killed_process_is_started_again_and_counted(running) -> None:
    running.start("one", LINGER)
    timing.until(lambda: running.running("one"))
    first = running.row("one").pid
    os.kill(first, signal.SIGKILL)
    timing.until(lambda: running.running("one") and running.row("one").pid != first)
    assert running.row("one").restarts == 1
    assert running.row("one").last_exit == "signal SIGKILL"


def test_a_process_that_keeps_ending_is_started_with_growing_pauses(running, tmp_path) -> None:
    marks = tmp_path / "marks"
    running.start(
        "one", f"import time; open({str(marks)!r},'a').write(f'{{time.monotonic()}}\\n'); raise SystemExit(3)"
    )
    timing.until(lambda: marks.exists() and len(marks.read_text().split()) >= 4)
    times = [float(line) for line in marks.read_text().split()]
    assert times[3] - times[2] >= supervisor.pause_s(3) > times[1] - times[0] - 0.6
    assert running.row("one").last_exit == "exit 3"


def test_pauses_double_and_stop_growing_at_half_a_minute() -> None:
    assert [supervisor.pause_s(crashes) for crashes in (1, 2, 3, 8, 50)] == [0.25, 0.5, 1.0, 30.0, 30.0]


def test_a_command_that_does_not_exist_is_a_crash_with_its_reason(running) -> None:
    running.supervisor.ensure(processes.ProcessSpec("one", ("/no/such/program",)))
    timing.until(lambda: running.row("one").status is processes.Status.CRASHED)
    assert "could not be started" in running.row("one").last_exit


def test_an_unwanted_process_is_stopped_and_a_wanted_one_again_started(running) -> None:
    running.start("one", LINGER)
    timing.until(lambda: running.running("one"))
    pid = running.row("one").pid
    running.table.release("one")
    timing.until(lambda: running.row("one").status is processes.Status.STOPPED)
    assert not alive(pid)
    running.start("one", LINGER)
    timing.until(lambda: running.running("one"))


def test_a_changed_command_replaces_the_running_process(running) -> None:
    running.start("one", LINGER)
    timing.until(lambda: running.running("one"))
    first = running.row("one").pid
    running.start("one", LINGER + " # changed")
    timing.until(lambda: running.running("one") and running.row("one").pid != first)
    assert not alive(first)
    assert running.row("one").restarts == 0


def test_a_process_that_ignores_the_polite_signal_is_killed_after_the_drain(tmp_path) -> None:
    one = Running(tmp_path, drain_s=0.5)
    one.start(
        "deaf",
        "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf',flush=True); time.sleep(600)",
    )
    timing.until(lambda: one.running("deaf") and "deaf" in (tmp_path / "logs" / "deaf.log").read_text())
    one.table.release("deaf")
    timing.until(lambda: one.row("deaf").status is processes.Status.STOPPED)
    assert one.row("deaf").last_exit == "signal SIGKILL"
    one.stop()


def test_shutdown_ends_callers_before_what_they_call_and_each_of_the_two_at_once(tmp_path) -> None:
    marks = tmp_path / "marks"
    one = Running(tmp_path / "state", callers=("gateway", "rollout"))
    names = ("ledger", "gateway", "rollout", "policy")
    for name in names:
        code = (
            "import signal,sys,time\n"
            f"def end(*_):\n open({str(marks)!r},'a').write('{name} asked\\n'); time.sleep(.5)\n"
            f" open({str(marks)!r},'a').write('{name} gone\\n'); sys.exit(0)\n"
            "signal.signal(signal.SIGTERM, end); print('ready', flush=True)\ntime.sleep(600)"
        )
        one.start(name, code)
    logs = [tmp_path / "state" / "logs" / f"{name}.log" for name in names]
    timing.until(lambda: all(log.exists() and "ready" in log.read_text() for log in logs))
    one.stop()
    lines = marks.read_text().splitlines()
    asked_and_gone = [
        {f"{name} {what}" for name in group}
        for group in (("gateway", "rollout"), ("ledger", "policy"))
        for what in ("asked", "gone")
    ]
    assert [set(lines[start : start + 2]) for start in (0, 2, 4, 6)] == asked_and_gone
    assert all(row.status is processes.Status.STOPPED and row.wanted for row in one.table.rows())


def test_a_process_is_asked_to_end_and_its_own_children_are_its_own_to_end(running, tmp_path) -> None:
    seen = tmp_path / "seen"
    code = (
        "import signal,subprocess,sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"def end(*_):\n open({str(seen)!r},'w').write(f'{{child.pid}} {{child.poll()}}'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); print('ready', flush=True)\nsignal.pause()"
    )
    running.start("one", code)
    log = tmp_path / "state" / "logs" / "one.log"
    timing.until(lambda: log.exists() and "ready" in log.read_text())
    running.table.release("one")
    timing.until(lambda: running.row("one").status is processes.Status.STOPPED)
    pid, ended = seen.read_text().split()
    assert ended == "None"
    timing.until(lambda: not alive(int(pid)))  # and what it left behind is killed


def test_a_second_supervisor_on_the_same_folder_refuses_with_a_sentence(running, tmp_path) -> None:
    running.start("one", LINGER)
    timing.until(lambda: running.running("one"))
    second = supervisor.Supervisor(tmp_path / "state")
    with pytest.raises(errors.WrongState, match=f"process {os.getpid()}.*stop it first"), second.alone():
        pytest.fail("there are two")


SUPERVISE = (
    "import pathlib,signal,sys,threading; from trimtab.cli.machine import supervisor\n"
    "stop = threading.Event(); signal.signal(signal.SIGTERM, lambda *_: stop.set())\n"
    "keeper = supervisor.Supervisor(pathlib.Path(sys.argv[1]))\n"
    "with keeper.alone():\n    keeper.run(stop)"
)


def test_what_a_killed_supervisor_left_is_killed_on_start_and_nothing_else(tmp_path) -> None:
    table = processes.Table(tmp_path)
    for name in ("one", "two"):
        table.ensure(processes.ProcessSpec(name, (sys.executable, "-c", LINGER)))
    first = subprocess.Popen([sys.executable, "-c", SUPERVISE, str(tmp_path)])
    timing.until(lambda: all(row.status is processes.Status.RUNNING for row in table.rows()))
    orphans = [row.pid for row in table.rows()]
    first.kill()
    first.wait()
    assert all(alive(pid) for pid in orphans)
    # As if the second one's process id belonged to somebody else by now.
    with subprocess.Popen([sys.executable, "-c", LINGER], start_new_session=True) as somebody:
        table.observe("two", processes.Status.RUNNING, pid=somebody.pid)
        table.release("two")
        second = Running(tmp_path)
        timing.until(lambda: second.running("one") and second.row("one").pid not in orphans)
        assert not any(alive(pid) for pid in orphans)
        assert alive(somebody.pid)
        second.stop()
        somebody.kill()


def test_a_signal_to_the_supervisor_stops_its_children(tmp_path) -> None:
    table = processes.Table(tmp_path)
    table.ensure(processes.ProcessSpec("one", (sys.executable, "-c", LINGER)))
    process = subprocess.Popen([sys.executable, "-c", SUPERVISE, str(tmp_path)])
    timing.until(lambda: table.rows()[0].status is processes.Status.RUNNING)
    pid = table.rows()[0].pid
    process.send_signal(signal.SIGTERM)
    assert process.wait(timing.PATIENCE_S) == 0
    assert not alive(pid)


def test_no_two_processes_get_the_same_address(tmp_path) -> None:
    table = processes.Table(tmp_path)
    rows = [table.ensure(processes.ProcessSpec(f"p{n}", ("x",))) for n in range(40)]
    assert len({row.address for row in rows}) == 40
    assert [row.sequence for row in rows] == sorted(row.sequence for row in rows)


def test_a_name_that_would_leave_the_log_folder_is_refused(tmp_path) -> None:
    with pytest.raises(errors.InvalidField, match="name"):
        processes.Table(tmp_path).ensure(processes.ProcessSpec("../x", ("x",)))


def test_by_itself_it_makes_a_table_true_that_others_write_and_ends_all_on_sigterm(tmp_path: pathlib.Path) -> None:
    table = processes.Table(tmp_path)
    table.ensure(processes.ProcessSpec("policy-1", (sys.executable, "-c", LINGER)))
    alone = subprocess.Popen([sys.executable, "-m", "trimtab.cli.machine.supervisor", str(tmp_path)])
    try:
        timing.until(lambda: table.rows()[0].status is processes.Status.RUNNING)
        child = table.rows()[0].pid
        assert alive(child)
        alone.terminate()
        assert alone.wait(timing.PATIENCE_S) == 0
        assert not alive(child)
    finally:
        alone.kill()
        alone.wait()
        table.close()
