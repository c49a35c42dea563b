"""A wall clock that can be set while its process runs: a file says how many seconds it is ahead.

Turned at the very start of a process (`process`), before any module has taken the clock it will read. What waits or
measures goes by the monotonic clock, which stays as it is. So does what gRPC reads: its Python half takes the wall
clock and hands the moment of a deadline to its C half, which no file turns: an hour would lie between them.
"""

import datetime
import pathlib
import time
import types

import grpc._channel
import grpc.aio._utils

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

    for module in (grpc._channel, grpc.aio._utils):
        module.time = types.SimpleNamespace(time=seconds)  # type: ignore[attr-defined]
    time.time = lambda: seconds() + ahead()
    time.time_ns = lambda: nanoseconds() + int(ahead() * 1_000_000_000)
    clock.utc_now = utc_now
