"""`trimtab up` in a process of its own, as a person starts it."""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

from trimtab.cli import platform
from trimtab.core import errors, feedback, ledger
from trimtab.rollout import processes

LINE, TENANT = "main", "local"
_START_S, _STOP_S = 150.0, 60.0


@dataclasses.dataclass(frozen=True)
class Up:
    """What it told people when it had started, and where it keeps its state."""

    address: str
    base_url: str
    api_key: str
    state: pathlib.Path

    def environment(self) -> dict[str, str]:
        """What the examples read."""
        return {
            "TRIMTAB_ADDRESS": self.address,
            "TRIMTAB_BASE_URL": self.base_url,
            "TRIMTAB_API_KEY": self.api_key,
        }

    def kill(self, name: str) -> int:
        """Ends one process as a crash would, and tells how often it was started anew before. It will be again."""
        row = self._row(name)
        os.kill(row.pid, signal.SIGKILL)
        return row.restarts

    def restarts(self, name: str) -> int:
        """How often a process was started anew."""
        return self._row(name).restarts

    def _row(self, name: str) -> processes.Row:
        [row] = [row for row in processes.Table(self.state).rows() if row.name == name]
        return row

    def joined(self, identity: str) -> dict[str, feedback.FeedbackEvent]:
        """Everything that was said in the chain an id belongs to, by id, once all of it is joined with its answer."""
        told: list[ledger.TracedFeedback] = []

        def all_joined() -> bool:
            try:
                told[:] = asyncio.run(self._trace(identity)).feedback
            except errors.NotFound:  # the ledger has yet to read it
                return False
            return bool(told) and all(one.status is ledger.FeedbackStatus.JOINED for one in told)

        until(all_joined, "joined feedback")
        assert not any(one.copies for one in told)
        return {one.event.id: one.event for one in told}

    async def _trace(self, identity: str) -> ledger.TraceResponse:
        async with platform.doors(platform.Layout(self.state)) as doors:
            return await doors.ledger.trace(ledger.TraceRequest(TENANT, identity), timeout_s=10)


def until(holds: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Returns when it holds; fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:.0f} s"
        threading.Event().wait(0.05)


@contextlib.contextmanager
def up(folder: pathlib.Path, policy: pathlib.Path) -> Iterator[Up]:
    """Starts it and reads what it says; stops it at the end."""
    said, state = folder / "said", folder / "state"
    flags = ("up", "--policy", str(policy), "--state", str(state), "--port", "0")
    with said.open("wb") as output:
        process = subprocess.Popen(
            (sys.executable, "-m", "trimtab.cli.app", *flags), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: "Ctrl-C" in said.read_text() or process.poll() is not None, "its welcome", _START_S)
        told = dict(re.findall(r"^(base URL|gRPC address|API key) +(\S+) *$", said.read_text(), re.M))
        assert len(told) == 3, said.read_text()
        yield Up(told["gRPC address"], told["base URL"], told["API key"], state)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_STOP_S)
