"""`trimtab logs`: the files that processes and training runs write into the state folder, running or not."""

import collections
import pathlib
import time
from collections.abc import Sequence

from trimtab.cli import show
from trimtab.cli.machine import platform
from trimtab.core import errors
from trimtab.trainer.runs import jobs

_LOOK_EVERY_S = 0.2


def show_logs(state: pathlib.Path, process: str, run: str, lines: int, follow: bool) -> None:
    """The last lines of each file that is asked for; then, if wanted, what is added, until Ctrl-C."""
    layout = platform.Layout(state)
    files = [_of_run(layout, run)] if run else _of_processes(layout, process)
    screen = show.Screen()
    named = len(files) > 1
    positions = {}
    for path in files:
        last, positions[path] = _tail(path, lines)
        _say(screen, path, last, named=named)
    while follow:
        time.sleep(_LOOK_EVERY_S)
        for path in files if run or process else _of_processes(layout, ""):
            new, positions[path] = _since(path, positions.get(path, 0))
            _say(screen, path, new, named=named)


def _of_processes(layout: platform.Layout, process: str) -> list[pathlib.Path]:
    """NotFound names the processes there are, in the order of their names."""
    found = sorted(layout.logs.glob("*.log"))
    if not found:
        raise errors.NotFound("logs in", str(layout.state))
    wanted = [path for path in found if path.stem == process] or [p for p in found if p.stem.startswith(process)]
    if not wanted:
        known = ", ".join(path.stem for path in found)
        raise errors.InvalidField("PROCESS", f"{process!r} has no log", f"name one of {known}")
    return wanted


def _of_run(layout: platform.Layout, run: str) -> pathlib.Path:
    found = sorted(layout.runs.glob(f"{run}*/{jobs.LOG}")) or sorted(layout.runs.glob(f"run-{run}*/{jobs.LOG}"))
    if not found:
        raise errors.NotFound("log of a run", run)
    if len(found) > 1:
        raise errors.InvalidField("--run", f"{run!r} begins {len(found)} ids", "give more of it")
    return found[0]


def _tail(path: pathlib.Path, count: int) -> tuple[Sequence[str], int]:
    with path.open(errors="replace") as file:
        return list(collections.deque(file, maxlen=count)), file.tell()


def _since(path: pathlib.Path, position: int) -> tuple[Sequence[str], int]:
    """Whole lines that were added; a file that became shorter is read from its beginning."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(position if position <= size else 0)
        new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        return whole.decode(errors="replace").splitlines(keepends=True), file.tell() - len(new) + len(whole)


def _say(screen: show.Screen, path: pathlib.Path, lines: Sequence[str], *, named: bool) -> None:
    for line in lines:
        screen.say(show.literal(f"{path.stem:<12} {line.rstrip()}" if named else line.rstrip()))
