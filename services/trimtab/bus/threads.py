"""The threads that an open log works with. One that ends by a fault of ours takes the log along, and says so.

Used by `sqlite.writer` and `kafka.sender`. A full disk, or brokers that are away, are no fault: who appends hears it.
"""

import threading
import types
from collections.abc import Callable

from trimtab.bus import limits
from trimtab.core import errors


def _nothing() -> None: ...


class Threads:
    """Of one log. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fault: BaseException | None = None
        self._tell: Callable[[BaseException], None] | None = None

    def start(self, name: str, run: Callable[[], None], at_end: Callable[[], None] = _nothing) -> threading.Thread:
        """at_end: called in the thread when `run` has ended, however it did."""
        thread = threading.Thread(target=self._run, args=(run, at_end), name=name, daemon=True)
        thread.start()
        return thread

    def on_fault(self, tell: Callable[[BaseException], None]) -> None:
        """See `port.EventLog`."""
        with self._lock:
            self._tell, fault = tell, self._fault
        if fault is not None:
            tell(fault)

    def refusal(self) -> errors.LogUnavailable:
        """Of an append to a log that has ended."""
        return limits.closed() if self._fault is None else limits.broken(self._fault)

    def _run(self, run: Callable[[], None], at_end: Callable[[], None]) -> None:
        for part in (run, at_end):
            with Kept() as kept:
                part()
            if kept.problem is not None:
                self._ended_by(kept.problem)

    def _ended_by(self, problem: BaseException) -> None:
        with self._lock:
            self._fault, tell = problem, self._tell
        if tell is not None:
            tell(problem)


class Kept:
    """Keeps whatever ends a thread, for somebody else to hear of."""

    def __init__(self) -> None:
        self.problem: BaseException | None = None

    def __enter__(self) -> "Kept":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, problem: BaseException | None, _trace: types.TracebackType | None
    ) -> bool:
        self.problem = problem
        return True
