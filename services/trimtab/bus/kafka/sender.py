"""What is appended on its way to the cluster. Used by `log`.

Two threads: one owns the producer, waits for the cluster and hands over what waits; the other, which never waits for
anybody, fails what has waited too long, so that a cluster that is away or stuck gives errors in time. `append` itself
never waits for the network.

The producer itself never gives up: what was answered with an error is stored when the cluster is back, in its order,
unless this process has ended. Its bytes count as waiting until then, which bounds memory. A producer that has met an
error which no retry helps takes nothing any more, whatever the topic; it is replaced.
"""

import collections
import concurrent.futures
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import kafka.errors

from trimtab.bus import limits, port, threads, topics
from trimtab.bus.kafka import clients, diagnosis
from trimtab.core import errors
from trimtab.obs import logging, metrics

_log = logging.get(__name__)

_LOOK_S = 0.2
_DEADLINE_CHECKS = 10

_Positions = concurrent.futures.Future[list[port.Position]]


class _Append:
    """Records on their way, and who waits for them. let_go: called once, when the producer has none of them left."""

    __slots__ = ("_left", "_let_go", "_lock", "_positions", "bytes", "future", "give_up_at", "records", "topics")

    def __init__(
        self, records: Sequence[tuple[port.NewRecord, int]], give_up_at: float, let_go: "Callable[[_Append], None]"
    ) -> None:
        self.records = records
        self.topics = {record.topic for record, _ in records}
        self.bytes = sum(len(one.value) + len(one.key) + limits.RECORD_OVERHEAD_BYTES for one, _ in records)
        self.give_up_at = give_up_at
        self.future: _Positions = concurrent.futures.Future()
        self._let_go = let_go
        self._positions: list[port.Position | None] = [None] * len(records)
        self._left = len(records)
        self._lock = threading.Lock()

    def stored(self, number: int, metadata: Any) -> None:
        self._positions[number] = port.Position(self.records[number][0].topic, metadata.partition, metadata.offset)
        self._done_with(1)

    def refused(self, problem: errors.LogUnavailable, records: int = 1) -> None:
        self.fail(problem)
        self._done_with(records)

    def fail(self, problem: errors.LogUnavailable) -> None:
        """Answers who waits, unless they have their answer."""
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self.future.set_exception(problem)

    def _done_with(self, records: int) -> None:
        with self._lock:
            self._left -= records
            done = self._left == 0
        if done:
            found = [position for position in self._positions if position is not None]
            if len(found) == len(self.records):
                with contextlib.suppress(concurrent.futures.InvalidStateError):
                    self.future.set_result(found)
            self._let_go(self)


class Sender:
    """Owns the producer. `closed` is set once nothing more will be sent; `threads` tell of a fault."""

    def __init__(self, cluster: clients.Cluster) -> None:
        self._cluster = cluster
        self.closed = threading.Event()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: collections.deque[_Append] = collections.deque()
        self._in_flight: set[_Append] = set()
        self._bytes = 0
        self._closing = False
        self._producer: Any = None
        self._spoiled = False
        # topics that the producer knows with all their partitions
        self._known: set[str] = set()
        # those that it could not be told of, so that it is logged once
        self._lacking: set[str] = set()
        # what kept the producer away, and what is wrong with the cluster as far as somebody has looked
        self._problem: Exception | None = None
        self._why = ""
        self._asking: threading.Thread | None = None
        self.threads = threads.Threads()
        self._sending = self.threads.start("log-sender", self._send_until_closed, self._end)
        self._watching = self.threads.start("log-deadlines", self._watch_deadlines)

    def submit(self, records: Sequence[tuple[port.NewRecord, int]]) -> _Positions:
        """Queues an append of records with their partitions. Overloaded at once when too much waits already."""
        # The watching thread looks every tenth of the deadline; giving up one look early keeps the promise.
        give_up_at = time.monotonic() + self._cluster.deadline_s * (1 - 1 / _DEADLINE_CHECKS)
        append = _Append(records, give_up_at, self._let_go)
        with self._lock:
            if self._closing:
                append.fail(self.threads.refusal())
                return append.future
            if not records:
                append.future.set_result([])  # the producer would never tell
                return append.future
            limits.require_room(len(self._waiting) + len(self._in_flight), self._bytes, append.bytes)
            self._waiting.append(append)
            self._bytes += append.bytes
            self._changed.notify()
        return append.future

    def close(self) -> None:
        """Sends what waits, within the deadline, then lets go. A second call does nothing."""
        with self._lock:
            self._closing = True
            self._changed.notify()
        self._sending.join(self._cluster.deadline_s + 1.0)
        self.closed.set()
        self._watching.join()

    # --- the sending thread ---

    def _send_until_closed(self) -> None:
        while self._wait_for_work():
            if self._spoiled:
                self._let_producer_go(0.0)
            if self._producer is not None or self._connect():
                self._send(self._take())

    def _wait_for_work(self) -> bool:
        """False when it is time to end."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            return bool(self._waiting)

    def _connect(self) -> bool:
        try:
            self._producer = self._cluster.producer()
            self._problem = None
        except (kafka.errors.KafkaError, OSError) as problem:
            self._problem = problem
            _log.warning("the event log is away", servers=str(self._cluster), reason=str(problem))
            self.closed.wait(_LOOK_S)
            return False
        return True

    def _take(self) -> list[_Append]:
        """What waits for topics that are there. What waits for others stays, and what follows it in its topics."""
        with self._lock:
            waiting = list(self._waiting)
        missing = {topic for topic in set().union(*(append.topics for append in waiting)) if not self._knows(topic)}
        with self._lock:
            taken, kept = [], []
            while self._waiting:
                append = self._waiting.popleft()
                if append.topics <= self._known and not append.topics & missing:
                    taken.append(append)
                else:
                    missing |= append.topics
                    kept.append(append)
            self._waiting.extend(kept)
            self._in_flight.update(taken)
        return taken

    def _knows(self, topic: str) -> bool:
        """Whether the producer knows the topic whole. Waits for a moment when it has not heard of it."""
        if topic in self._known:
            return True
        try:
            found = self._producer.partitions_for(self._cluster.prefix + topic)
        except kafka.errors.KafkaError as problem:
            if topic not in self._lacking:
                self._lacking.add(topic)
                _log.warning("the event log lacks a topic", topic=self._cluster.prefix + topic, reason=str(problem))
            self.closed.wait(_LOOK_S)
            return False
        if len(found) == topics.ALL[topic].partitions:
            self._known.add(topic)
            self._lacking.discard(topic)
        else:
            self.closed.wait(_LOOK_S)
        return topic in self._known

    def _send(self, taken: Sequence[_Append]) -> None:
        for append in taken:
            if not append.future.set_running_or_notify_cancel():
                self._let_go(append)
                continue
            for number, (record, partition) in enumerate(append.records):
                try:
                    sent = self._producer.send(
                        self._cluster.prefix + record.topic,
                        # an empty value of a compacted topic is Kafka's tombstone
                        value=record.value or None,
                        key=record.key,
                        headers=list(record.headers.items()),
                        partition=partition,
                    )
                except kafka.errors.KafkaError as problem:
                    append.refused(limits.perhaps_stored(str(problem)), len(append.records) - number)
                    break
                sent.add_callback(functools.partial(append.stored, number))
                sent.add_errback(functools.partial(self._refused, append, record.topic))

    def _refused(self, append: _Append, topic: str, problem: Exception) -> None:
        """A broker refused a record, or the producer what it held when another one was refused."""
        with self._lock:
            as_another, self._spoiled = self._spoiled, self._spoiled or not getattr(problem, "retriable", False)
        too_large = kafka.errors.MessageSizeTooLargeError | kafka.errors.RecordListTooLargeError
        if isinstance(problem, too_large) and not as_another:
            append.refused(
                errors.LogUnavailable(
                    f"Topic {self._cluster.prefix}{topic} on {self._cluster} takes no record of this size, although it "
                    f"has to take {topics.ALL[topic].max_bytes} bytes; correct it with `trimtab topics apply`. "
                    "Nothing was stored."
                )
            )
            return
        append.refused(limits.perhaps_stored(self._why or str(problem)))

    def _patience_left(self) -> float:
        """Seconds until nobody waits any more for what is in flight."""
        with self._lock:
            last = max((append.give_up_at for append in self._in_flight), default=0.0)
        return max(0.0, last - time.monotonic())

    def _let_producer_go(self, patience_s: float) -> None:
        """What it has not delivered by then is dropped, and refused if somebody still waits."""
        ended, self._producer = self._producer, None
        self._known.clear()
        self._spoiled = False
        if ended is None:
            return
        try:
            ended.close(timeout=patience_s)
        except kafka.errors.KafkaError:
            # `close` gives up where it should end: its thread would go on trying
            ended._sender.force_close()
            with contextlib.suppress(kafka.errors.KafkaError):
                ended.close(timeout=1.0)

    def _end(self) -> None:
        """Also when the thread ends by a fault: nobody waits for an answer that will not come."""
        with self._lock:
            self._closing = True
            never_sent = list(self._waiting)
            self._waiting.clear()
        for append in never_sent:
            append.fail(self.threads.refusal())
        self._let_producer_go(self._patience_left())
        with self._lock:
            unsure = list(self._in_flight)
        for append in unsure:
            append.fail(limits.perhaps_stored("it was closed"))

    # --- the producer's thread, or the sending one ---

    def _let_go(self, append: _Append) -> None:
        with self._lock:
            self._in_flight.discard(append)
            self._bytes -= append.bytes
        if not append.future.cancelled() and append.future.exception() is None:
            metrics.LOG_RECORDS.inc(len(append.records))

    # --- the watching thread ---

    def _watch_deadlines(self) -> None:
        while not self.closed.wait(self._cluster.deadline_s / _DEADLINE_CHECKS):
            now = time.monotonic()
            self._ask_why(now)
            self._fail_overdue(now)
        self._fail_overdue(float("inf"))

    def _fail_overdue(self, now: float) -> None:
        with self._lock:
            unsure = [append for append in self._in_flight if append.give_up_at <= now]
            overdue = []
            while self._waiting and self._waiting[0].give_up_at <= now:
                overdue.append(self._waiting.popleft())
                self._bytes -= overdue[-1].bytes
        for append in overdue:
            append.fail(limits.not_stored(self._why))
        for append in unsure:
            append.fail(limits.perhaps_stored(self._why or "it did not answer in time"))

    def _ask_why(self, now: float) -> None:
        """Has somebody look, in time for the sentence, when an append has waited for a third of its deadline."""
        left = self._cluster.deadline_s * (1 - 1 / _DEADLINE_CHECKS - 1 / 3)
        with self._lock:
            late: set[str] = set()
            for append in (*self._waiting, *self._in_flight):
                if append.give_up_at - now < left:
                    late |= append.topics
        if not late:
            self._why = ""
        elif self._asking is None or not self._asking.is_alive():
            self._asking = threading.Thread(target=self._look, args=(late,), name="log-diagnosis", daemon=True)
            self._asking.start()

    def _look(self, late: set[str]) -> None:
        why = diagnosis.of(self._cluster, late, self._problem)
        if why != self._why:
            _log.warning("the event log is late", reason=why)
        self._why = why
