"""A wall clock that can be set while its process runs: a file says how many seconds it is ahead.

Turned at the very start of a process (`process`), before any module has taken the clock it will read. What waits or
measures goes by the monotonic clock, which stays as it is.
"""

import datetime
import pathlib
import time

from trimtab.core import clock, files


def put(file: pathlib.Path, seconds: float) -> None:
    """Sets the clock of the process that reads this file."""
    files.replace(file, f"{seconds}")


def turn(file: pathlib.Path) -> None:
    """From now on this process reads the time through the file."""
    seconds, nanoseconds = time.time, time.time_ns

    def ahead() -> float:
        return float(file.read_text())

    def utc_now() -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=ahead())

    time.time = lambda: seconds() + ahead()
    time.time_ns = lambda: nanoseconds() + int(ahead() * 1_000_000_000)
    clock.utc_now = utc_now
