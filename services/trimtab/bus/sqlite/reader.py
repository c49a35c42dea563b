"""Blocking reads of the embedded log. One connection per reader; built by `log`.

Nothing tells a process that another one has committed, so a waiting reader asks SQLite for its `data_version`: a look
at shared memory, a few microseconds, 12 times a second when nothing comes.
"""

import json
import threading
import time
from typing import Any

import apsw

from trimtab.bus import limits, port
from trimtab.bus.sqlite import file
from trimtab.core import clock, errors

_SHORTEST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.08


class SqliteReader:
    """Implements `port.Reader`."""

    def __init__(
        self,
        connection: apsw.Connection,
        assigned: dict[port.TopicPartition, tuple[int, int]],
        log_closed: threading.Event,
    ) -> None:
        """assigned: per partition its id in the file and where to start."""
        self._connection = connection
        self._log_closed = log_closed
        self._ids = {source: number for source, (number, _) in assigned.items()}
        self._positions = {source: start for source, (_, start) in assigned.items()}
        self._turn: list[port.TopicPartition] = list(assigned)
        self._exhausted_at: int | None = None  # the data_version at which there was nothing more to read

    def poll(self, max_records: int, timeout_s: float) -> list[port.Record]:
        """See the port. Partitions take turns at being read first. At most `limits.MAX_POLL_BYTES`, or one record."""
        give_up_at = time.monotonic() + timeout_s
        pause = _SHORTEST_PAUSE_S
        while True:
            if self._log_closed.is_set():
                raise errors.LogUnavailable("The event log is closed.")
            with file.as_unavailable():
                records = self._read_new(max_records)
            left = give_up_at - time.monotonic()
            if records or left <= 0:
                return records
            self._log_closed.wait(min(pause, left))
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    def seek(self, source: port.TopicPartition, offset: int) -> None:
        if source not in self._positions:
            raise errors.InvalidField("source", f"{source} is not assigned to this reader", "assign it at the start")
        self._positions[source] = offset
        self._exhausted_at = None

    def position(self, source: port.TopicPartition) -> int:
        return self._positions[source]

    def close(self) -> None:
        self._connection.close()

    def _read_new(self, max_records: int) -> list[port.Record]:
        version = self._connection.pragma("data_version")
        if version == self._exhausted_at:
            return []
        with self._connection:  # one snapshot: what is beyond its end offsets is for the next poll
            ends = dict(file.rows(self._connection, "SELECT id, next_offset FROM sources"))
            found = _Found(max_records, limits.MAX_POLL_BYTES)
            positions = {source: self._read_source(source, ends[self._ids[source]], found) for source in self._turn}
        self._positions = positions  # only now: a poll that failed half-way is met again whole
        exhausted = all(position == ends[self._ids[source]] for source, position in positions.items())
        self._exhausted_at = version if exhausted else None
        if found.records:
            after = self._turn.index(found.records[0].source) + 1
            self._turn = self._turn[after:] + self._turn[:after]
        return found.records

    def _read_source(self, source: port.TopicPartition, end: int, found: "_Found") -> int:
        """Adds what there is and room for; returns where the next poll goes on, beyond gaps that end the partition."""
        position = self._positions[source]
        limits.require_in_log(source, position, end)
        if position == end or found.full:
            return position
        base = self._ids[source] << file.OFFSET_BITS
        rows = self._connection.execute(
            "SELECT id, at_us, key, headers, value FROM records WHERE id >= ? AND id < ? ORDER BY id",
            (base + position, base + end),
        )
        for row in rows:
            record = _record(source, base, row)
            found.add(record)
            if found.full:
                rows.close()
                return record.offset + 1
        return end


class _Found:
    """What one poll has found, and whether there is room for more."""

    def __init__(self, max_records: int, max_bytes: int) -> None:
        self.records: list[port.Record] = []
        self._max_records = max_records
        self._bytes_left = max_bytes

    def add(self, record: port.Record) -> None:
        self.records.append(record)
        self._bytes_left -= len(record.value)

    @property
    def full(self) -> bool:
        return len(self.records) >= self._max_records or self._bytes_left <= 0


def _record(source: port.TopicPartition, base: int, row: tuple[Any, ...]) -> port.Record:
    number, at_us, key, headers, value = row
    return port.Record(
        topic=source.topic,
        partition=source.partition,
        offset=number - base,
        timestamp=clock.from_microseconds(at_us),
        key=key,
        value=value,
        headers={name: text.encode("latin-1") for name, text in json.loads(headers).items()},
    )
