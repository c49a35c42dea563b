"""Readers of assigned partitions. They assign and seek: where a consumer stands is the consumer's to keep."""

import collections
import datetime
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import kafka.errors

from trimtab.bus import limits, port
from trimtab.bus.kafka import clients, diagnosis
from trimtab.core import errors

_LOOK_S = 0.2
# Of records that a reader has fetched and not given out.
_HELD_RECORDS = 2000
_EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)


class KafkaReader:
    """Implements `port.Reader`."""

    def __init__(
        self, cluster: clients.Cluster, start: Mapping[port.TopicPartition, int], log_closed: threading.Event
    ) -> None:
        self._cluster = cluster
        self._log_closed = log_closed
        self._positions = dict(start)
        self._consumer: Any = None
        # fetched and not yet given out; sources take turns at being first
        self._held: dict[port.TopicPartition, collections.deque[port.Record]] = {}
        self._turn = list(start)

    def poll(self, max_records: int, timeout_s: float) -> list[port.Record]:
        """See the port. At most `limits.MAX_POLL_BYTES`, or one record."""
        give_up_at = time.monotonic() + timeout_s
        while True:
            if self._log_closed.is_set():
                raise errors.LogUnavailable("The event log is closed.")
            with diagnosis.unavailable(self._cluster, {source.topic for source in self._positions}):
                self._fetch(min(_LOOK_S, max(0.0, give_up_at - time.monotonic())))
                records = self._taken(max_records)
                if records or (time.monotonic() >= give_up_at and self._at_end()):
                    return records

    def seek(self, source: port.TopicPartition, offset: int) -> None:
        if source not in self._positions:
            raise errors.InvalidField("source", f"{source} is not assigned to this reader", "assign it at the start")
        self._positions[source] = offset
        self._held.pop(source, None)
        if self._consumer is not None:
            self._consumer.seek(self._cluster.named(source), offset)

    def position(self, source: port.TopicPartition) -> int:
        return self._positions[source]

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _fetch(self, timeout_s: float) -> None:
        """Adds to what is held what has come within the time; at once where something is."""
        if sum(map(len, self._held.values())) >= _HELD_RECORDS:
            return
        if self._consumer is None:
            self._consumer = self._cluster.consumer()
            self._consumer.assign([self._cluster.named(source) for source in self._positions])
            for source, offset in self._positions.items():
                self._consumer.seek(self._cluster.named(source), offset)
        try:
            found = self._consumer.poll(timeout_ms=0 if self._held else 1000 * timeout_s, max_records=_HELD_RECORDS)
        except kafka.errors.OffsetOutOfRangeError as problem:
            self._back_in_range(problem.args[0])
            return
        for named, part in found.items():
            source = self._cluster.ours(named)
            held = self._held.setdefault(source, collections.deque())
            held.extend(_record(source, one) for one in part)

    def _taken(self, max_records: int) -> list[port.Record]:
        taken: list[port.Record] = []
        left = limits.MAX_POLL_BYTES
        for source in self._turn:
            held = self._held.get(source)
            while held and len(taken) < max_records and (left > 0 or not taken):
                taken.append(held.popleft())
                self._positions[source] = taken[-1].offset + 1
                left -= len(taken[-1].value)
            if not held:
                self._held.pop(source, None)
                # beyond gaps that clean-up left, and records that only brokers see
                self._positions[source] = self._consumer.position(self._cluster.named(source))
        if taken:
            after = self._turn.index(taken[0].source) + 1
            self._turn = self._turn[after:] + self._turn[:after]
        return taken

    def _at_end(self) -> bool:
        """Whether nothing stands in the log beyond the positions: a poll that is over at once must not overlook it."""
        last = ends(self._cluster, self._consumer, list(self._positions))
        for source, end in last.items():
            limits.require_in_log(source, self._positions[source], end)
        return all(self._positions[source] >= end for source, end in last.items())

    def _back_in_range(self, offsets: Mapping[Any, int]) -> None:
        """On past what retention has removed; WrongState when a position lies beyond the end."""
        begins = self._consumer.beginning_offsets(list(offsets))
        last = self._consumer.end_offsets(list(offsets))
        for one, offset in offsets.items():
            source = self._cluster.ours(one)
            limits.require_in_log(source, offset, last[one])
            self._consumer.seek(one, max(offset, begins[one]))
            self._positions[source] = max(offset, begins[one])


def ends(
    cluster: clients.Cluster, consumer: Any, sources: Sequence[port.TopicPartition]
) -> dict[port.TopicPartition, int]:
    """Per partition the offset that the next record gets; KafkaError when nobody answers within half the deadline."""
    asked = {source: cluster.named(source) for source in sources}
    found = consumer.end_offsets(list(asked.values()), timeout_ms=500 * cluster.deadline_s)
    return {source: found[named] for source, named in asked.items()}


def _record(source: port.TopicPartition, found: Any) -> port.Record:
    return port.Record(
        topic=source.topic,
        partition=source.partition,
        offset=found.offset,
        timestamp=_EPOCH + datetime.timedelta(milliseconds=found.timestamp),
        key=found.key or b"",
        value=found.value or b"",
        headers=dict(found.headers),
    )
