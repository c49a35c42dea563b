"""KafkaLog: the EventLog port over Apache Kafka, through kafka-python. Built by `bus.connect`.

A record is acknowledged when all in-sync replicas have it (`acks=all`) and is written once however often the producer
tries (`enable_idempotence`). `bus.topics.kafka_settings` says how topics are made. One thread of a log's own owns the
producer: `append` never waits for the network, and a cluster that is away is looked for again until the deadline of
what waits. Readers assign and seek: where a consumer stands is the consumer's to keep.

Differences from the embedded log: an append of several records to one partition may be stored up to one of them when
the cluster fails in between; the time of a record is the broker's.
"""

import collections
import concurrent.futures
import contextlib
import datetime
import functools
import itertools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import kafka
import kafka.errors
from kafka.admin import NewTopic

from trimtab.bus import port, topics
from trimtab.core import errors, ids
from trimtab.obs import logging, metrics

_log = logging.get(__name__)

# Of appends that wait: bounds this process's memory while the cluster is slow or away.
MAX_WAITING_BYTES = 64 * topics.MIB
MAX_WAITING_APPENDS = 20_000
_ROW_OVERHEAD_BYTES = 512
# Of one poll, unless its first record alone is larger: bounds the memory of a reader of large records.
MAX_POLL_BYTES = 32 * topics.MIB
# A batch and its records take a little more room than the record they hold.
_LARGEST_REQUEST_BYTES = 9 * topics.MIB + topics.MIB // 2
_LOOK_S = 0.2
# Of records that a reader has fetched and not given out.
_HELD_RECORDS = 2000
_EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)

_Positions = concurrent.futures.Future[list[port.Position]]


class _Append:
    """Records on their way, and who waits for them."""

    __slots__ = ("_left", "_lock", "_positions", "bytes", "future", "give_up_at", "records")

    def __init__(self, records: Sequence[tuple[port.NewRecord, int]], give_up_at: float) -> None:
        self.records = records
        self.bytes = sum(len(one.value) + len(one.key) + _ROW_OVERHEAD_BYTES for one, _ in records)
        self.give_up_at = give_up_at
        self.future: _Positions = concurrent.futures.Future()
        self._positions: list[port.Position | None] = [None] * len(records)
        self._left = len(records)
        self._lock = threading.Lock()

    def stored(self, number: int, metadata: Any) -> None:
        with self._lock:
            self._positions[number] = port.Position(self.records[number][0].topic, metadata.partition, metadata.offset)
            self._left -= 1
            done = self._left == 0
        if done:
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                self.future.set_result([found for found in self._positions if found is not None])

    def failed(self, problem: Exception) -> None:
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self.future.set_exception(problem)


class KafkaLog:
    """Implements `port.EventLog`. Thread-safe.

    servers: host:port of some brokers. prefix: of our topics' names, where a cluster is shared. security: further
    settings of kafka-python's clients, for TLS and SASL. deadline_s: an append resolves, one way or another, within it.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        prefix: str = "",
        security: Mapping[str, Any] | None = None,
        deadline_s: float = 10.0,
    ) -> None:
        self._client = {"bootstrap_servers": list(servers), **(security or {})}
        self._prefix = prefix
        self._deadline_s = deadline_s
        self.closed = threading.Event()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: collections.deque[_Append] = collections.deque()
        self._waiting_bytes = 0
        self._in_flight: set[_Append] = set()
        self._closing = False
        self._producer: Any = None
        self._asking: Any = None
        self._asking_lock = threading.Lock()
        self._sending = threading.Thread(target=self._send_until_closed, name="log-sender", daemon=True)
        self._sending.start()

    def append(self, records: Sequence[port.NewRecord]) -> _Positions:
        """See the port."""
        placed = [(record, _placed(record)) for record in records]
        append = _Append(placed, time.monotonic() + self._deadline_s)
        with self._lock:
            if self._closing:
                append.failed(errors.LogUnavailable("The event log is closed; nothing was stored."))
                return append.future
            waiting = len(self._waiting) + len(self._in_flight)
            if waiting and (self._waiting_bytes + append.bytes > MAX_WAITING_BYTES or waiting >= MAX_WAITING_APPENDS):
                raise errors.Overloaded(f"{waiting} appends wait for the event log already; retry with back-off.")
            self._waiting.append(append)
            self._waiting_bytes += append.bytes
            self._changed.notify()
        return append.future

    def reader(self, start: Mapping[port.TopicPartition, int]) -> port.Reader:
        for source in start:
            _check_partition(source.topic, source.partition)
        return KafkaReader(self._client, self._prefix, start, self.closed, self._deadline_s)

    def partitions(self, topic: str) -> int:
        return _topic(topic).partitions

    def end_offsets(self, topic: str) -> dict[port.TopicPartition, int]:
        count = _topic(topic).partitions
        sources = [port.TopicPartition(topic, partition) for partition in range(count)]
        asked = {source: _named(self._prefix, source) for source in sources}
        with self._asking_lock, _as_unavailable():
            if self._asking is None:
                self._asking = _consumer(self._client, self._deadline_s)
            ends = self._asking.end_offsets(list(asked.values()), timeout_ms=1000 * self._deadline_s)
        return {source: ends[named] for source, named in asked.items()}

    def close(self) -> None:
        """Sends what waits, within the deadline, then lets go. A second call does nothing."""
        with self._lock:
            self._closing = True
            self._changed.notify()
        self._sending.join(self._deadline_s + 1.0)
        self.closed.set()
        with self._asking_lock:
            if self._asking is not None:
                self._asking.close()
                self._asking = None

    # --- the sending thread ---

    def _send_until_closed(self) -> None:
        try:
            while True:
                taken = self._take()
                self._fail_overdue()
                if not taken and self._closing:
                    break
                if taken:
                    self._send(taken)
            if self._producer is not None:
                self._producer.flush(timeout=self._deadline_s)
        except kafka.errors.KafkaError as problem:
            _log.warning("the event log was not flushed", reason=str(problem))
        finally:
            self._fail_what_is_left()
            if self._producer is not None:
                self._producer.close(timeout=1.0)

    def _take(self) -> list[_Append]:
        """What waits, once there is a producer for it."""
        with self._changed:
            if not self._waiting and not self._closing:
                self._changed.wait(_LOOK_S)
        if self._producer is None and not self._connect():
            return []
        with self._lock:
            taken = list(self._waiting)
            self._waiting.clear()
            for append in taken:
                self._in_flight.add(append)
        return taken

    def _connect(self) -> bool:
        try:
            self._producer = kafka.KafkaProducer(
                **self._client,
                acks="all",
                enable_idempotence=True,
                compression_type="zstd",
                linger_ms=2,
                batch_size=256 * topics.KIB,
                max_request_size=_LARGEST_REQUEST_BYTES,
                # what the producer gives up on has its answer before the deadline of the append
                delivery_timeout_ms=int(800 * self._deadline_s),
                request_timeout_ms=int(400 * self._deadline_s),
                max_block_ms=1000,
                bootstrap_timeout_ms=1000,
                allow_auto_create_topics=False,
            )
        except (kafka.errors.KafkaError, OSError) as problem:
            _log.warning("the event log is away", reason=str(problem))
            time.sleep(_LOOK_S)
            return False
        return True

    def _send(self, taken: Sequence[_Append]) -> None:
        for append in taken:
            if not append.future.set_running_or_notify_cancel():
                self._settled(append)
                continue
            append.future.add_done_callback(functools.partial(self._settle, append))
            for number, (record, partition) in enumerate(append.records):
                try:
                    sent = self._producer.send(
                        self._prefix + record.topic,
                        # an empty value of a compacted topic is Kafka's tombstone
                        value=record.value or None,
                        key=record.key,
                        headers=list(record.headers.items()),
                        partition=partition,
                    )
                except kafka.errors.KafkaError as problem:
                    append.failed(_unavailable(problem))
                    break
                sent.add_callback(functools.partial(append.stored, number))
                sent.add_errback(functools.partial(self._give_up, append))

    def _give_up(self, append: _Append, problem: Exception) -> None:
        append.failed(_unavailable(problem))

    def _settle(self, append: _Append, _: _Positions) -> None:
        self._settled(append)
        if not append.future.cancelled() and append.future.exception() is None:
            metrics.LOG_RECORDS.inc(len(append.records))

    def _settled(self, append: _Append) -> None:
        with self._lock:
            if append in self._in_flight:
                self._in_flight.discard(append)
                self._waiting_bytes -= append.bytes

    def _fail_overdue(self) -> None:
        now = time.monotonic()
        with self._lock:
            overdue = []
            while self._waiting and self._waiting[0].give_up_at <= now:
                overdue.append(self._waiting.popleft())
                self._waiting_bytes -= overdue[-1].bytes
            unsure = [append for append in self._in_flight if append.give_up_at <= now]
        for append in overdue:
            append.failed(errors.LogUnavailable("The event log did not take the record in time; not stored."))
        for append in unsure:
            append.failed(_unavailable("it did not answer in time"))

    def _fail_what_is_left(self) -> None:
        with self._lock:
            self._closing = True
            left = [*self._waiting, *self._in_flight]
            self._waiting.clear()
        for append in left:
            append.failed(_unavailable("it was closed"))


class KafkaReader:
    """Implements `port.Reader`."""

    def __init__(
        self,
        client: Mapping[str, Any],
        prefix: str,
        start: Mapping[port.TopicPartition, int],
        log_closed: threading.Event,
        deadline_s: float,
    ) -> None:
        self._client, self._prefix, self._deadline_s = client, prefix, deadline_s
        self._log_closed = log_closed
        self._positions = dict(start)
        self._consumer: Any = None
        # fetched and not yet given out; sources take turns at being first
        self._held: dict[port.TopicPartition, collections.deque[port.Record]] = {}
        self._turn = list(start)

    def poll(self, max_records: int, timeout_s: float) -> list[port.Record]:
        """See the port. At most MAX_POLL_BYTES, or one record."""
        give_up_at = time.monotonic() + timeout_s
        while True:
            if self._log_closed.is_set():
                raise errors.LogUnavailable("The event log is closed.")
            with _as_unavailable():
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
            self._consumer.seek(_named(self._prefix, source), offset)

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
            self._consumer = _consumer(self._client, self._deadline_s)
            self._consumer.assign([_named(self._prefix, source) for source in self._positions])
            for source, offset in self._positions.items():
                self._consumer.seek(_named(self._prefix, source), offset)
        try:
            found = self._consumer.poll(timeout_ms=0 if self._held else 1000 * timeout_s, max_records=_HELD_RECORDS)
        except kafka.errors.OffsetOutOfRangeError as problem:
            self._back_in_range(problem.args[0])
            return
        for named, part in found.items():
            source = self._ours(named)
            held = self._held.setdefault(source, collections.deque())
            held.extend(_record(source, one) for one in part)

    def _taken(self, max_records: int) -> list[port.Record]:
        taken: list[port.Record] = []
        left = MAX_POLL_BYTES
        for source in self._turn:
            held = self._held.get(source)
            while held and len(taken) < max_records and (left > 0 or not taken):
                taken.append(held.popleft())
                self._positions[source] = taken[-1].offset + 1
                left -= len(taken[-1].value)
            if not held:
                self._held.pop(source, None)
                # beyond gaps that clean-up left, and records that only brokers see
                self._positions[source] = self._consumer.position(_named(self._prefix, source))
        if taken:
            after = self._turn.index(taken[0].source) + 1
            self._turn = self._turn[after:] + self._turn[:after]
        return taken

    def _at_end(self) -> bool:
        """Whether nothing stands in the log beyond the positions: a poll that is over at once must not overlook it."""
        asked = {source: _named(self._prefix, source) for source in self._positions}
        found = self._consumer.end_offsets(list(asked.values()), timeout_ms=1000 * self._deadline_s)
        ends = {source: found[named] for source, named in asked.items()}
        for source, end in ends.items():
            if self._positions[source] > end:
                raise _another_log(source, self._positions[source], end)
        return all(self._positions[source] >= end for source, end in ends.items())

    def _back_in_range(self, offsets: Mapping[Any, int]) -> None:
        """On past what retention has removed; WrongState when a position lies beyond the end."""
        begins = self._consumer.beginning_offsets(list(offsets))
        ends = self._consumer.end_offsets(list(offsets))
        for one, offset in offsets.items():
            source = self._ours(one)
            if offset > ends[one]:
                raise _another_log(source, offset, ends[one])
            self._consumer.seek(one, max(offset, begins[one]))
            self._positions[source] = max(offset, begins[one])

    def _ours(self, named: Any) -> port.TopicPartition:
        return port.TopicPartition(named.topic[len(self._prefix) :], named.partition)


def create_topics(
    servers: Sequence[str], *, prefix: str = "", copies: int = -1, security: Mapping[str, Any] | None = None
) -> list[str]:
    """Creates the topics that are missing, and returns their names. copies: replicas of each; -1: as many as is usual.

    LogUnavailable when the cluster is away.
    """
    with _as_unavailable():
        client = kafka.KafkaAdminClient(bootstrap_servers=list(servers), **(security or {}))
        with contextlib.closing(client):
            there = set(client.list_topics())
            missing = [topic for topic in topics.ALL.values() if prefix + topic.name not in there]
            client.create_topics(
                [
                    NewTopic(prefix + topic.name, topic.partitions, copies, topic_configs=topics.kafka_settings(topic))
                    for topic in missing
                ]
            )
            client.wait_for_topics([prefix + topic.name for topic in missing])
    return [prefix + topic.name for topic in missing]


def _named(prefix: str, source: port.TopicPartition) -> Any:
    return kafka.TopicPartition(prefix + source.topic, source.partition)


def _consumer(client: Mapping[str, Any], deadline_s: float) -> Any:
    return kafka.KafkaConsumer(
        **client,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        fetch_max_bytes=MAX_POLL_BYTES,
        max_partition_fetch_bytes=4 * topics.MIB,
        bootstrap_timeout_ms=int(1000 * deadline_s),
        request_timeout_ms=int(1000 * deadline_s),
        allow_auto_create_topics=False,
    )


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


def _placed(record: port.NewRecord) -> int:
    """The partition of a record that may be appended."""
    topic = _topic(record.topic)
    if len(record.value) > topic.max_bytes:
        raise errors.InvalidField(
            "value",
            f"is {len(record.value)} bytes and topic {topic.name} takes {topic.max_bytes}",
            "send a smaller record",
        )
    beside = len(record.key) + sum(map(len, itertools.chain(*record.headers.items())))
    if beside > port.MAX_KEY_AND_HEADERS_BYTES:
        raise errors.InvalidField(
            "headers", f"and key are over {port.MAX_KEY_AND_HEADERS_BYTES} bytes", "carry less beside the value"
        )
    if record.partition is None:
        return ids.partition_of(record.key, topic.partitions)
    _check_partition(record.topic, record.partition)
    return record.partition


def _check_partition(topic: str, partition: int) -> None:
    count = _topic(topic).partitions
    if not 0 <= partition < count:
        raise errors.InvalidField("partition", f"{partition} is not one of {topic}", f"use 0 to {count - 1}")


def _topic(name: str) -> topics.Topic:
    if name not in topics.ALL:
        raise errors.InvalidField("topic", f"{name!r} does not exist", f"use one of {', '.join(topics.ALL)}")
    return topics.ALL[name]


def _another_log(source: port.TopicPartition, position: int, end: int) -> errors.WrongState:
    return errors.WrongState(
        f"The reader stands at {source}@{position} and the log ends at {end}: this is another log than the one the "
        "position was saved from. Rebuild the consumer's store from this log, or restore the log."
    )


def _unavailable(problem: Exception | str) -> errors.LogUnavailable:
    return errors.LogUnavailable(
        f"The event log did not take the record ({problem}); it may be stored yet. Retrying the same id is safe."
    )


@contextlib.contextmanager
def _as_unavailable() -> Iterator[None]:
    try:
        yield
    except kafka.errors.KafkaError as problem:
        raise errors.LogUnavailable(f"The event log does not answer ({problem}); try again.") from problem
