"""`trimtab down`: stops the platform of a state folder from another terminal."""

import contextlib
import os
import pathlib
import signal
import threading
import time

from trimtab.cli import show
from trimtab.cli.machine import platform, supervisor
from trimtab.core import errors
from trimtab.rollout import processes

_LIMIT_S = 120.0
_LOOK_EVERY_S = 0.1


def down(state: pathlib.Path) -> None:
    """Tells the platform to end, waits until it has, and says what was stopped. NotFound when none runs there."""
    layout, screen = platform.Layout(state), show.Screen()
    if not (layout.state / processes.FILE).exists():
        raise errors.NotFound("platform in", str(layout.state))
    running = _running(layout)
    holder = supervisor.holder(layout.state)
    if not holder and not supervisor.left_running(layout.state):
        raise errors.NotFound("running platform in", str(layout.state))
    with screen.step(f"stopping the platform in {layout.state}") as step:
        if holder:
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder, signal.SIGTERM)
            _wait(layout.state, holder)
        else:
            _clear_away(layout.state)
        step.say(f"{len(running)} processes: {', '.join(running)}" if running else "nothing had started yet")


def _running(layout: platform.Layout) -> list[str]:
    with contextlib.closing(processes.Table(layout.state)) as table:
        return [row.name for row in table.rows() if row.pid]


def _wait(state: pathlib.Path, holder: int) -> None:
    """Until the process that held the folder has ended, not only let go of it."""
    deadline = time.monotonic() + _LIMIT_S
    while supervisor.holder(state) == holder or _runs(holder):
        if time.monotonic() > deadline:
            raise errors.DeadlineExceeded(f"The platform in {state} has not ended within {_LIMIT_S:.0f} s; try again.")
        time.sleep(_LOOK_EVERY_S)


def _runs(pid: int) -> bool:
    with contextlib.suppress(OSError):
        # the state stands behind the command in brackets, which may hold anything
        return (pathlib.Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _clear_away(state: pathlib.Path) -> None:
    """The supervisor was killed and its processes live on: the next one ends them, here at once and all."""
    ended = threading.Event()
    ended.set()
    keeper = supervisor.Supervisor(state)
    with keeper.alone():
        keeper.run(ended)
    keeper.table.close()
