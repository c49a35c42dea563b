"""The writer of one process: waiting appends gathered into one durable transaction (group commit).

Used by `log`. Two threads: one takes its turn at the turnstile and writes; the other, which never touches the file,
fails what has waited too long, so that a stuck disk or a stopped process that holds the lock gives errors in time.
"""

import collections
import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Sequence

import apsw

from trimtab.bus import limits, port, threads, topics
from trimtab.bus.sqlite import cleaning, file
from trimtab.core import clock, errors, failpoints
from trimtab.obs import logging, metrics

_log = logging.get(__name__)

# Of one transaction: bounds how long other processes wait for their turn.
MAX_BATCH_BYTES = 16 * topics.MIB
MAX_BATCH_RECORDS = 4096
_CLEANING_CHECK_S = 60.0
_DEADLINE_CHECKS = 10

_Positions = concurrent.futures.Future[list[port.Position]]


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A checked record on its way into the file."""

    source: int
    topic: str
    partition: int
    key: bytes
    headers: str
    value: bytes


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Append:
    rows: Sequence[Row]
    bytes: int
    give_up_at: float
    future: _Positions


class Writer:
    """Owns the connection that writes. `closed` is set once nothing more will be written; `threads` tell of a fault."""

    def __init__(
        self, connection: apsw.Connection, turnstile: file.Turnstile, deadline_s: float, now: clock.Clock
    ) -> None:
        self._connection = connection
        self._turnstile = turnstile
        self._deadline_s = deadline_s
        self._now = now
        self._cleaner = cleaning.Cleaner(connection, now)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: collections.deque[_Append] = collections.deque()
        self._waiting_bytes = 0
        self._in_flight: list[_Append] = []
        self._cleanings: list[concurrent.futures.Future[None]] = []
        self._closing = False
        self.closed = threading.Event()
        self.threads = threads.Threads()
        self._writing = self.threads.start("log-writer", self._write_until_closed, self._let_go)
        self._watching = self.threads.start("log-deadlines", self._watch_deadlines)

    def submit(self, rows: Sequence[Row]) -> _Positions:
        """Queues an append. Overloaded at once when too much waits already."""
        future: _Positions = concurrent.futures.Future()
        size = sum(len(row.value) + len(row.key) + len(row.headers) + limits.RECORD_OVERHEAD_BYTES for row in rows)
        # The watching thread looks every tenth of the deadline; giving up one look early keeps the promise.
        give_up_at = time.monotonic() + self._deadline_s * (1 - 1 / _DEADLINE_CHECKS)
        with self._lock:
            if self._closing:
                future.set_exception(self.threads.refusal())
                return future
            limits.require_room(len(self._waiting), self._waiting_bytes, size)
            self._waiting.append(_Append(rows, size, give_up_at, future))
            self._waiting_bytes += size
            self._changed.notify()
        return future

    def clean(self) -> concurrent.futures.Future[None]:
        """Queues a whole cleaning."""
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        with self._lock:
            if self._closing:
                future.set_exception(self.threads.refusal())
                return future
            self._cleanings.append(future)
            self._changed.notify()
        return future

    def close(self) -> None:
        """Writes what waits, within the deadline, then lets go. A second call does nothing."""
        with self._lock:
            self._closing = True
            self._changed.notify()
        self._writing.join(self._deadline_s)
        self.closed.set()
        self._watching.join()

    # --- the writing thread ---

    def _write_until_closed(self) -> None:
        while self._wait_for_work():
            self._write()
            self._clean()

    def _let_go(self) -> None:
        self._fail_what_is_left()
        self._connection.close()
        self._turnstile.close()

    def _wait_for_work(self) -> bool:
        """False when it is time to end. Returns without work, too, when a cleaning may be due."""
        with self._changed:
            if not self._waiting and not self._cleanings and not self._closing:
                self._changed.wait(_CLEANING_CHECK_S)
            return bool(self._waiting) or bool(self._cleanings) or not self._closing

    def _write(self) -> None:
        if not self._waiting:
            return
        try:
            with file.as_unavailable(), self._turnstile.held():
                taken = self._take()  # after the turn has come: everything that came meanwhile goes along
                failpoints.reach("bus.write.before_begin")
                positions = self._insert(taken)
            failpoints.reach("bus.write.committed")
        except errors.LogUnavailable as problem:
            self._settle(problem)
            return
        metrics.LOG_COMMITS.inc()
        metrics.LOG_RECORDS.inc(sum(len(found) for found in positions))
        self._settle(positions)

    def _take(self) -> list[_Append]:
        records = size = 0
        with self._lock:
            while self._waiting and records < MAX_BATCH_RECORDS and size < MAX_BATCH_BYTES:
                append = self._waiting.popleft()
                self._waiting_bytes -= append.bytes
                if append.future.set_running_or_notify_cancel():
                    self._in_flight.append(append)
                    records += len(append.rows)
                    size += append.bytes
            return list(self._in_flight)

    def _insert(self, taken: list[_Append]) -> list[list[port.Position]]:
        """One transaction; the positions of each append."""
        at_us = clock.microseconds(self._now())
        positions: list[list[port.Position]] = []
        with file.transaction(self._connection):
            next_offsets = self._next_offsets({row.source for append in taken for row in append.rows})
            rows = []
            for append in taken:
                positions.append([])
                for row in append.rows:
                    offset = next_offsets[row.source]
                    next_offsets[row.source] = offset + 1
                    rows.append((row.source << file.OFFSET_BITS | offset, at_us, row.key, row.headers, row.value))
                    positions[-1].append(port.Position(row.topic, row.partition, offset))
            self._connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", rows)
            self._connection.executemany(
                "UPDATE sources SET next_offset = ? WHERE id = ?",
                [(offset, source) for source, offset in next_offsets.items()],
            )
            failpoints.reach("bus.write.before_commit")
        return positions

    def _next_offsets(self, sources: set[int]) -> dict[int, int]:
        query = "SELECT next_offset FROM sources WHERE id = ?"
        return {source: self._connection.execute(query, (source,)).get for source in sources}

    def _settle(self, outcome: list[list[port.Position]] | errors.LogUnavailable) -> None:
        """Answers the appends in flight; those whose deadline passed first have their answer already."""
        with self._lock:
            answered, self._in_flight = self._in_flight, []
            if isinstance(outcome, errors.LogUnavailable) and not answered:  # the turn itself failed
                answered = list(self._waiting)
                self._waiting.clear()
                self._waiting_bytes = 0
        for number, append in enumerate(answered):
            if isinstance(outcome, errors.LogUnavailable):
                _fail(append.future, outcome)
            else:
                _succeed(append.future, outcome[number])

    def _clean(self) -> None:
        with self._lock:
            asked, self._cleanings = self._cleanings, []
        try:
            with file.as_unavailable():
                if asked or self._cleaner.due():
                    self._clean_in_pieces()
        except errors.LogUnavailable as problem:
            for future in asked:
                future.set_exception(problem)
            if not asked:
                _log.warning("cleaning put off", reason=str(problem))
            return
        for future in asked:
            future.set_result(None)

    def _clean_in_pieces(self) -> None:
        """So that nobody waits long for a turn, in this process or another."""
        with self._turnstile.held():
            self._cleaner.start()
        for piece in self._cleaner.pieces():
            failpoints.reach("bus.clean.before_piece")
            with self._turnstile.held():
                self._cleaner.delete(piece)
            self._write()

    def _fail_what_is_left(self) -> None:
        """Also when the thread ends by a fault: nobody waits for an answer that will not come."""
        problem = self.threads.refusal()
        with self._lock:
            self._closing = True
            never_written, unsure = list(self._waiting), self._in_flight
            self._waiting.clear()
            self._in_flight, cleanings = [], self._cleanings
        for append in never_written:
            _fail(append.future, problem)
        for append in unsure:
            _fail(append.future, limits.perhaps_stored("its writer ended in the middle"))
        for future in cleanings:
            future.set_exception(problem)

    # --- the watching thread ---

    def _watch_deadlines(self) -> None:
        while not self.closed.wait(self._deadline_s / _DEADLINE_CHECKS):
            self._fail_overdue(time.monotonic())
        self._fail_overdue(float("inf"))

    def _fail_overdue(self, now: float) -> None:
        with self._lock:
            unsure = [append for append in self._in_flight if append.give_up_at <= now]
            overdue = []
            while self._waiting and self._waiting[0].give_up_at <= now:
                overdue.append(self._waiting.popleft())
                self._waiting_bytes -= overdue[-1].bytes
        for append in overdue:
            _fail(append.future, limits.not_stored())
        for append in unsure:
            _fail(append.future, limits.perhaps_stored("it did not answer in time"))


def _fail(future: _Positions, problem: errors.LogUnavailable) -> None:
    try:
        future.set_exception(problem)
    except concurrent.futures.InvalidStateError:
        return  # answered or cancelled before


def _succeed(future: _Positions, positions: list[port.Position]) -> None:
    try:
        future.set_result(positions)
    except concurrent.futures.InvalidStateError:
        return  # its deadline passed first
