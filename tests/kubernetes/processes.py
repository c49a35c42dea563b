"""A process with a log of its own, that is waited for until it answers and is gone afterwards."""

import contextlib
import os
import pathlib
import signal
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence

from tests import timing

_READY_WITHIN_S = 120.0
_ENDS_WITHIN_S = 20.0
_LOOK_S = 0.05
_SHOWN = 3000


class Daemon:
    """Started at once. name: for errors, and of its log in the folder. It is killed when the thread that started it
    ends, however that ends."""

    def __init__(self, folder: pathlib.Path, name: str, command: Sequence[str]) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def await_ready(self, ready: Callable[[], bool]) -> None:
        """RuntimeError with the end of its log when it ends, or is not ready in time."""
        give_up_at = time.monotonic() + _READY_WITHIN_S
        while not ready():
            if (status := self._process.poll()) is not None:
                raise RuntimeError(f"{self.name} ended with status {status}:\n{self.said()}")
            if time.monotonic() > give_up_at:
                raise RuntimeError(f"{self.name} was not ready within {_READY_WITHIN_S:.0f} s:\n{self.said()}")
            time.sleep(_LOOK_S)

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-_SHOWN:]

    def stop(self) -> None:
        """Asks it to end, and makes it end when it takes too long."""
        self._process.terminate()
        try:
            self._process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def answers(url: str, authority: pathlib.Path | None = None) -> bool:
    """Whether it says that all is well. authority: the certificate that vouches for it, where it speaks TLS."""
    trusted = ssl.create_default_context(cafile=authority) if authority else None
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=timing.SLACK_S, context=trusted) as answer:
        return bool(answer.status == 200)
    return False


def run(*command: str | pathlib.Path, said: str | None = None) -> str:
    """What it prints; RuntimeError with all it said when it fails. said: to it, on its standard input."""
    words = [str(word) for word in command]
    done = subprocess.run(words, input=said, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(words)}` failed: {done.stdout}{done.stderr}")
    return done.stdout


def end(pids: Sequence[int]) -> None:
    """Kills processes that are not children of ours, and returns when they are gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    timing.until(lambda: not any(_lives(pid) for pid in pids), f"the end of processes {pids}")


def _lives(pid: int) -> bool:
    """A zombie, whose parent takes its time to look, does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
