"""Makes the desired-state table of this machine true: starts, restarts and stops processes.

Built and run by `trimtab up`, and by `main` for the policies of docker/compose.yaml; the table itself is
`rollout.processes`, which the rollout controller writes too. That is why policies outlive a killed controller: it only
says what it wants, and this process holds the children. It adopts nothing: what a killed supervisor left running is
killed on start, recognised by a mark in its environment.

A process is asked to end, and ends its own children as it sees fit: the trainer keeps a run that was interrupted apart
from one that failed. Only what does not end in time is killed with its whole group.
"""

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator

from trimtab.core import errors, failpoints, files
from trimtab.obs import logging
from trimtab.rollout import processes

LOCK_FILE = "supervisor.lock"
_LOOK_EVERY_S = 0.1
# A process that has run this long starts its back-off afresh.
_STEADY_S = 30.0
_LONGEST_PAUSE_S = 30.0
_STALE_DRAIN_S = 3.0
# In the environment of all that is started: a successor finds also what was not noted down any more.
_MARK = "TRIMTAB_SUPERVISED_IN"
_log = logging.get(__name__)


def pause_s(crashes: int) -> float:
    """How long to wait before the next start after so many crashes in a row: 0.25 s, doubling, at most 30 s."""
    return float(min(_LONGEST_PAUSE_S, 0.25 * 2 ** min(crashes - 1, 20)))


@dataclasses.dataclass(slots=True)
class _Child:
    """A process this supervisor started. `process` is None between a crash and the next start."""

    row: processes.Row
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    crashes: int = 0
    restarts: int = 0
    next_start: float = 0.0
    last_exit: str = ""
    status: processes.Status = processes.Status.STOPPED
    stop_sent: float | None = None

    @property
    def specification(self) -> tuple[tuple[str, ...], dict[str, str]]:
        return self.row.argv, self.row.env


class Supervisor:
    """One per state folder: `with keeper.alone(): keeper.run(stop)`. `ensure` may be called before and while it runs,
    from any thread.

    callers: names of processes that call others; they end first, so that nothing in flight loses what it needs.
    """

    def __init__(self, state: pathlib.Path, *, callers: Collection[str] = (), drain_s: float = 15.0) -> None:
        self.table = processes.Table(state)
        self._state = state
        self._callers = callers
        self._drain_s = drain_s
        self._children: dict[str, _Child] = {}

    def ensure(self, spec: processes.ProcessSpec) -> processes.Row:
        """Wants a process; its row names the address it was given."""
        return self.table.ensure(spec)

    def run(self, stop: threading.Event) -> None:
        """Blocks until `stop` is set, then stops everything, callers first. Call it inside `alone`."""
        self._kill_stale()
        try:
            while not stop.is_set():
                self._reconcile(time.monotonic())
                stop.wait(_LOOK_EVERY_S)
        finally:
            self._shut_down()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Holds the state folder, before anything is written there. WrongState if another supervisor runs on it."""
        with (self._state / LOCK_FILE).open("a+") as lock:
            if not files.lock_now(lock):
                lock.seek(0)
                raise errors.WrongState(
                    f"Another supervisor (process {lock.read().strip() or 'unknown'}) runs on {self._state}; "
                    "stop it first or give another state folder."
                )
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def _kill_stale(self) -> None:
        """What an earlier supervisor left: first a chance to end, then the end."""
        stale = left_running(self._state)
        for pid in stale:
            _log.warning("a process of an earlier supervisor is stopped", pid=pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STALE_DRAIN_S
        while left_running(self._state) and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S / 5)
        for pid in stale:
            _kill_group(pid)
        for row in self.table.rows():
            self.table.observe(row.name, processes.Status.STOPPED, last_exit=row.last_exit)

    def _reconcile(self, now: float) -> None:
        """One look: every child's end is noticed, every wanted process is up or waits for its turn."""
        for row in self.table.rows():
            child = self._children.setdefault(row.name, _Child(row))
            if child.process is not None and child.process.poll() is not None:
                self._note_exit(child, child.process, now)
            wanted = row.wanted and (row.argv, row.env) == child.specification
            if child.process is not None and wanted:
                self._settle(child, now)
            elif child.process is not None:
                self._stop(child, child.process, now)
            elif not row.wanted:
                self._forget(child)
            elif not wanted:
                self._children[row.name] = _Child(row)
            elif now >= child.next_start:
                self._start(child, now)

    def _start(self, child: _Child, now: float) -> None:
        logs = self._state / "logs"
        logs.mkdir(exist_ok=True)
        child.started = now
        try:
            with (logs / f"{child.row.name}.log").open("ab") as output:
                child.process = subprocess.Popen(
                    child.row.argv,
                    env=os.environ | child.row.env | {_MARK: str(self._state.resolve())},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a terminal's Ctrl-C is ours to pass on, in order
                )
                failpoints.reach("supervisor.start.before_noted")
        except OSError as problem:
            self._crashed(child, f"could not be started: {problem}", now)
            return
        self._observe(child, processes.Status.STARTING)

    def _settle(self, child: _Child, now: float) -> None:
        if child.status is processes.Status.STARTING:
            self._observe(child, processes.Status.RUNNING)
        if child.crashes and now - child.started >= _STEADY_S:
            child.crashes = 0

    def _note_exit(self, child: _Child, process: subprocess.Popen[bytes], now: float) -> None:
        code = process.returncode
        _kill_group(process.pid)  # nothing of its group outlives it
        child.process = None
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
        if child.stop_sent is not None:
            child.stop_sent, child.last_exit = None, how
            self._observe(child, processes.Status.STOPPED)
            return
        self._crashed(child, how, now)

    def _crashed(self, child: _Child, how: str, now: float) -> None:
        child.crashes = 1 if now - child.started >= _STEADY_S else child.crashes + 1
        child.restarts += 1
        child.last_exit = how
        child.next_start = now + pause_s(child.crashes)
        _log.warning("a process ended unasked", process=child.row.name, how=how, restarts=child.restarts)
        self._observe(child, processes.Status.CRASHED)

    def _stop(self, child: _Child, process: subprocess.Popen[bytes], now: float) -> None:
        if child.stop_sent is None:
            child.stop_sent = now
            process.terminate()
        elif now - child.stop_sent >= self._drain_s:
            _kill_group(process.pid)

    def _forget(self, child: _Child) -> None:
        """Unwanted and not running: says so once, and starts from nothing should it be wanted again."""
        if child.status is processes.Status.CRASHED:
            self._observe(child, processes.Status.STOPPED)
        del self._children[child.row.name]

    def _shut_down(self) -> None:
        """Callers before what they call, each of the two all at once."""
        self._end(child for child in self._children.values() if child.row.name in self._callers)
        self._end(child for child in self._children.values() if child.row.name not in self._callers)
        self._children.clear()

    def _end(self, children: Iterable[_Child]) -> None:
        """Asks them all to end and waits until the last one has, at most as long as a drain may take."""
        running = [(child, child.process) for child in children if child.process is not None]
        deadline = time.monotonic() + self._drain_s
        for child, process in running:
            self._stop(child, process, time.monotonic())
        for child, process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _kill_group(process.pid)
                process.wait()
            self._note_exit(child, process, time.monotonic())

    def _observe(self, child: _Child, status: processes.Status) -> None:
        child.status = status
        pid = child.process.pid if child.process else 0
        self.table.observe(
            child.row.name,
            status,
            pid=pid,
            restarts=child.restarts,
            last_exit=child.last_exit,
        )


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def holder(state: pathlib.Path) -> int:
    """The process that runs the supervisor of this folder; 0 when none does."""
    with contextlib.suppress(FileNotFoundError), (state / LOCK_FILE).open("r+") as lock:
        if not files.lock_now(lock):
            return int(lock.read().strip() or 0)
    return 0


def left_running(state: pathlib.Path) -> set[int]:
    """Process groups of what supervisors of this folder have started and what has not ended."""
    mark = f"{_MARK}={state.resolve()}".encode()
    groups = set()
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                groups.add(os.getpgid(int(folder.name)))
    return groups - {os.getpgrp()}


def main() -> None:
    """`python -m trimtab.cli.machine.supervisor FOLDER`: makes the table in it true, until SIGTERM."""
    state, stop = pathlib.Path(sys.argv[1]), threading.Event()
    logging.configure("supervisor", "info")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    keeper = Supervisor(state)
    with keeper.alone():
        keeper.run(stop)


if __name__ == "__main__":
    main()
