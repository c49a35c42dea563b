"""A whole platform as a person starts it: `trimtab up` in a process of its own, and what can be seen of it."""

import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tests import timing

from trimtab.bus import connect
from trimtab.cli.machine import platform
from trimtab.core import control, ledger, releases, runs
from trimtab.rpc import ports

COMMAND = (sys.executable, "-m", "trimtab.cli.app")
TENANT, LINE = "local", "main"
_START_S, _STOP_S = 150.0, 60.0
_TOPICS = ("completions", "feedback")
_Told = TypeVar("_Told")


@dataclasses.dataclass(frozen=True, slots=True)
class Books:
    """What the platform has on record. written: records on the topics that requests write to."""

    written: int
    counts: ledger.CountsResponse


class Up:
    """`trimtab up` on one state folder. It may be stopped and started again.

    policy: the folder of the line's first; None where the line has one already. more: flags besides.
    """

    def __init__(self, folder: pathlib.Path, policy: pathlib.Path | None = None, *more: str) -> None:
        self._more = more
        self.state = folder / "state"
        self.url = f"http://127.0.0.1:{ports.free_port()}"
        self._said = folder / "said"
        self._policy = policy
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it has told people where to go."""
        port = self.url.rpartition(":")[2]
        flags = ("up", "--state", str(self.state), "--port", port, "--grpc-port", "0")
        if self._policy is not None:
            flags += ("--policy", str(self._policy))
        flags += self._more
        with self._said.open("wb") as output:
            process = subprocess.Popen((*COMMAND, *flags), stdout=output, stderr=subprocess.STDOUT)
        self._process = process
        timing.until(lambda: f"{self.url}/v1" in self.said() or process.poll() is not None, "the base URL", _START_S)
        assert process.poll() is None, self.said()

    def said(self) -> str:
        return self._said.read_text()

    def address(self) -> str:
        """The gRPC door where people find it: on the screen."""
        [address] = re.findall(r"^gRPC address +(\S+)", self.said(), re.M)
        return str(address)

    def api_key(self) -> str:
        """The key where people find it: on the screen."""
        [key] = re.findall(r"\btt-[\w-]+", self.said())
        return str(key)

    def terminate(self) -> int:
        """Tells it to end as an init system does, and returns its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(_STOP_S)

    def destroy(self) -> None:
        """Nothing of it is left, whatever state it is in."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def processes(self) -> dict[int, str]:
        """Every process of this machine that was told of the state folder: by id, how it was started."""
        found = {}
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (folder / "cmdline").read_bytes()
                if str(self.state).encode() in command + (folder / "environ").read_bytes():
                    found[int(folder.name)] = command.replace(b"\0", b" ").decode(errors="replace")
        return found

    def books(self) -> Books:
        """The books once the ledger has read everything that is written."""
        with contextlib.closing(connect.open_log(platform.Layout(self.state).log_url)) as log:
            ends = {str(source): end for topic in _TOPICS for source, end in log.end_offsets(topic).items() if end}
        found: list[ledger.CountsResponse] = []

        def has_read_all() -> bool:
            found[:] = [self._ask(_counts)]
            return all(found[0].consumed.get(source, 0) >= end for source, end in ends.items())

        timing.until(has_read_all, "the ledger's reading of the log")
        return Books(sum(ends.values()), found[0])

    def history(self) -> tuple[releases.Release, ...]:
        """Every release of the line."""
        return self._ask(_history)

    def runs(self, kind: runs.RunKind) -> tuple[runs.Run, ...]:
        """Every run of a kind, oldest first."""
        return tuple(run for run in self._ask(_runs) if run.spec.kind is kind)

    def trace(self, identity: str) -> ledger.TraceResponse:
        """The chain an id belongs to."""

        async def traced(doors: platform.Doors) -> ledger.TraceResponse:
            return await doors.ledger.trace(ledger.TraceRequest(TENANT, identity), timeout_s=10)

        return self._ask(traced)

    def _ask(self, question: Callable[[platform.Doors], Awaitable[_Told]]) -> _Told:
        async def asked() -> _Told:
            async with platform.doors(platform.Layout(self.state)) as doors:
                return await question(doors)

        return asyncio.run(asked())


async def _counts(doors: platform.Doors) -> ledger.CountsResponse:
    return await doors.ledger.counts(ledger.CountsRequest(TENANT, LINE), timeout_s=10)


async def _history(doors: platform.Doors) -> tuple[releases.Release, ...]:
    return tuple(await doors.rollout.list_releases(control.ListReleasesRequest(TENANT, LINE), timeout_s=10))


async def _runs(doors: platform.Doors) -> tuple[runs.Run, ...]:
    return tuple(await doors.trainer.list_runs(runs.ListRunsRequest(TENANT, LINE), timeout_s=10))


@dataclasses.dataclass
class Terminal:
    """Where the operator of a platform types commands."""

    up: Up

    def type(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return trimtab(*arguments, "--state", str(self.up.state))

    def told(self, *arguments: str) -> Any:
        """What a command tells a program; a failure is a failure of the test."""
        return json.loads(self.done(*arguments, "--json"))

    def done(self, *arguments: str) -> str:
        ended = self.type(*arguments)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


def trimtab(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command as a person types it."""
    return subprocess.run((*COMMAND, *arguments), capture_output=True, text=True, timeout=60, check=False)
