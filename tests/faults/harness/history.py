"""What clients did: a JSON line before each call and one after it, and one for each fault while it lasted.

Written by `load` and `rows`, read back for `checker`. Times are seconds of the monotonic clock of the one process that
writes, so an interval here is an interval there.
"""

import contextlib
import dataclasses
import enum
import json
import pathlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class Outcome(enum.StrEnum):
    """What a client knows of an attempt. OPEN: it has no answer yet, or never had one."""

    OPEN = "open"
    OK = "ok"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """One call. duplicate: the replica said that it had the feedback already. reason: of what is not OK."""

    feedback_id: str
    digest: str
    replica: int
    began: float
    ended: float | None = None
    outcome: Outcome = Outcome.OPEN
    duplicate: bool = False
    reason: str = ""

    @property
    def took(self) -> float:
        """Seconds until its answer; infinite without one."""
        return float("inf") if self.ended is None else self.ended - self.began


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """Something that was away between two moments; one that is still away ends at infinity."""

    what: str
    began: float
    ended: float


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """A history as it is read back. amends: by feedback id, the one that it names as superseded."""

    attempts: Sequence[Attempt]
    faults: Sequence[Fault]
    amends: Mapping[str, str]


class History:
    """Appends to a file, from any thread. The first line holds what the run was: its seed among it."""

    def __init__(self, path: pathlib.Path, **run: Any) -> None:
        self._file = path.open("w", buffering=1)
        self._lock = threading.Lock()
        self._number = 0
        self.acknowledged = 0
        self._write(event="run", **run)

    def invoke(self, feedback_id: str, digest: str, replica: int, amends: str = "") -> int:
        """Before the call; the number that its answer is told under."""
        with self._lock:
            self._number += 1
            number = self._number
        about = {"amends": amends} if amends else {}
        self._write(event="invoke", op=number, id=feedback_id, digest=digest, replica=replica, **about)
        return number

    def answered(self, number: int, outcome: Outcome, *, duplicate: bool = False, reason: str = "") -> None:
        """After the call."""
        self._write(event=outcome.value, op=number, duplicate=duplicate, reason=reason)
        if outcome is Outcome.OK:
            with self._lock:
                self.acknowledged += 1

    def begin(self, what: str) -> None:
        """A fault has begun: whatever is called from now on meets it."""
        self._write(event="begin", what=what)

    def end(self, what: str) -> None:
        """It is about to end: whatever was answered until now met it."""
        self._write(event="end", what=what)

    @contextlib.contextmanager
    def lasting(self, what: str) -> Iterator[None]:
        """A fault from its beginning to its end."""
        self.begin(what)
        try:
            yield
        finally:
            self.end(what)

    def close(self) -> None:
        self._file.close()

    def _write(self, **line: Any) -> None:
        with self._lock:
            self._file.write(json.dumps({"at": time.monotonic(), **line}) + "\n")


def read(path: pathlib.Path) -> Told:
    """What a file holds, attempts in the order they were begun."""
    attempts: dict[int, Attempt] = {}
    faults: list[Fault] = []
    amends: dict[str, str] = {}
    for line in map(json.loads, path.read_text().splitlines()):
        match line["event"]:
            case "invoke":
                attempts[line["op"]] = Attempt(line["id"], line["digest"], line["replica"], line["at"])
                if "amends" in line:
                    amends[line["id"]] = line["amends"]
            case "begin":
                faults.append(Fault(line["what"], line["at"], float("inf")))
            case "end":
                last = max(number for number, one in enumerate(faults) if one.what == line["what"])
                faults[last] = dataclasses.replace(faults[last], ended=line["at"])
            case "ok" | "refused" | "unknown":
                attempts[line["op"]] = dataclasses.replace(
                    attempts[line["op"]],
                    ended=line["at"],
                    outcome=Outcome(line["event"]),
                    duplicate=line["duplicate"],
                    reason=line["reason"],
                )
    return Told(list(attempts.values()), faults, amends)
