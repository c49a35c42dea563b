"""The consumer runner: poll, handle, commit after the effect. For consumers that keep state (ledger, trainer).

Each record has one of three outcomes, said by how `Effect.apply` ends:

- it returns: done;
- it raises `NotNow`: what it needs is away. The transaction is rolled back, what stood before it is committed, the
  runner waits and meets it again from the stored positions. The whole consumer waits: that is the back-pressure, and
  it keeps the order of every partition;
- it raises `Never` (or `errors.MalformedRecord`, which `wire.schemas.decode` raises): no retry can help. Its bytes go
  to the topic `deadletter`, and only when they are durable there does the position move past it. Beyond the limit
  (`deadletter.Limit`) the runner halts instead, with the position before the record. A record that is larger than its
  topic takes ends so too, unseen by `apply`.

Anything else leaves `run` and stops the process. `errors.LogUnavailable`, of the log itself or of a handler that
appends, is waited out like `NotNow`.

An implementation over SQL, whole:

    class Joins:                                       # a Handler
        def positions(self): return dict(rows of the table `positions`)
        @contextlib.contextmanager
        def transaction(self):
            with self._engine.begin() as connection:   # commits at the end, rolls back when anything is raised
                yield JoinEffect(connection)           # an Effect

Stateless folds of a topic (no store, from offset 0 at each start): `bus.fold`.
"""

import contextlib
import dataclasses
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

from trimtab.bus import deadletter, limits, port, topics
from trimtab.core import clock, errors, failpoints
from trimtab.obs import logging, metrics

_log = logging.get(__name__)

LOG_AWAY_DELAY_S = 1.0


class NotNow(Exception):
    """This record cannot be handled yet; it is met again after `delay_s`."""

    def __init__(self, reason: str, delay_s: float = 1.0) -> None:
        super().__init__(reason)
        self.delay_s = delay_s


Never = deadletter.Never


class Effect(Protocol):
    """One open transaction of the consumer's store."""

    def apply(self, record: port.Record) -> None:
        """Writes the record's effect into the transaction. Raises NotNow or Never; nothing of it is kept then.

        May see a record again that a rolled-back transaction saw: effects outside the transaction must be idempotent.
        """
        ...

    def save(self, positions: Mapping[port.TopicPartition, int]) -> None:
        """Writes, in the same transaction, where to go on: per partition the offset of the next record."""
        ...


class Handler(Protocol):
    """A consumer: its store, and what a record does to it. Called from the runner's thread only."""

    def positions(self) -> Mapping[port.TopicPartition, int]:
        """Where the store stands: what was last saved. Partitions that are missing start at 0."""
        ...

    def transaction(self) -> contextlib.AbstractContextManager[Effect]:
        """Opens a transaction that commits at the end of the block and rolls back on any exception.

        One holds as many records as one poll gave. Entering or leaving may raise NotNow (the store is away).
        """
        ...


class _Refused(Exception):
    """`records[index]` was not done; what is in the transaction is rolled back."""

    def __init__(self, index: int, problem: NotNow | Never | errors.MalformedRecord) -> None:
        super().__init__(str(problem))
        self.index = index
        self.problem = problem


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """max_records: of one poll, and so of one transaction. poll_s: how long a poll waits; bounds how late a stop is."""

    max_records: int = 500
    poll_s: float = 0.5


class Runner:
    """Feeds the topics' records to one handler. One runner per store: two would handle every record twice."""

    def __init__(
        self,
        log: port.EventLog,
        subscribed: Sequence[topics.Topic],
        handler: Handler,
        *,
        consumer: str,
        batch: Batch | None = None,
        limit: deadletter.Limit | None = None,
        now: clock.Clock = clock.utc_now,
    ) -> None:
        """consumer: the name in dead letters, logs and metrics."""
        self._log = log
        # Partitions of one number hold the same sessions: what is read of them one after another belongs together.
        self._sources = [
            port.TopicPartition(topic.name, partition)
            for partition in range(max(topic.partitions for topic in subscribed))
            for topic in subscribed
            if partition < topic.partitions
        ]
        self._handler = handler
        self._consumer = consumer
        self._batch = batch or Batch()
        self._limit = limit or deadletter.Limit()
        self._now = now
        self._stands: dict[port.TopicPartition, int] = {}

    def run(self, stop: threading.Event) -> None:
        """Handles records until `stop` is set. Raises what is neither NotNow nor Never, and TooManyDeadLetters.

        May be called again after it raised: it goes on from the stored positions.
        """
        letters = deadletter.DeadLetters(self._log, self._consumer, self._limit, self._now)
        metrics.CONSUMER_LAG.labels(self._consumer).set_function(self._lag)
        with contextlib.closing(self._log.reader(dict.fromkeys(self._sources, 0))) as reader:
            placed = False
            while not stop.is_set():
                try:
                    if not placed:
                        letters.recall()
                        self._place(reader)
                        placed = True
                    self._settle(reader.poll(self._batch.max_records, self._batch.poll_s), letters, stop)
                except NotNow as problem:
                    placed = False
                    self._wait(stop, str(problem), problem.delay_s)
                except errors.LogUnavailable as problem:
                    placed = False
                    self._wait(stop, str(problem), LOG_AWAY_DELAY_S)

    def _place(self, reader: port.Reader) -> None:
        """To where the store says it stands: after a failure, too, since a commit half-heard may have happened."""
        stored = self._handler.positions()
        positions = {source: stored.get(source, 0) for source in self._sources}
        for source, offset in positions.items():
            reader.seek(source, offset)
        self._show(positions)

    def _wait(self, stop: threading.Event, reason: str, delay_s: float) -> None:
        metrics.CONSUMER_RETRIES.labels(self._consumer).inc()
        _log.warning("not now", consumer=self._consumer, reason=reason, delay_s=delay_s)
        stop.wait(delay_s)

    def _settle(self, records: list[port.Record], letters: deadletter.DeadLetters, stop: threading.Event) -> None:
        """Each record of a poll done or dead-lettered, in order."""
        size = len(records)
        while records and not stop.is_set():
            try:
                self._commit(records[:size], letters)
                records = records[size:]
                size = len(records)
            except _Refused as refused:
                if refused.index > 0:
                    size = refused.index  # first commit what stands before it
                    continue
                if isinstance(refused.problem, NotNow):
                    raise refused.problem from None
                letters.bury(records[0], str(refused.problem))
                failpoints.reach("bus.deadletter.buried")
                self._skip(records[0])
                records = records[1:]
                size = len(records)

    def _commit(self, records: list[port.Record], letters: deadletter.DeadLetters) -> None:
        """One transaction: the effects of all records and the positions after them, or nothing and _Refused."""
        with self._handler.transaction() as effect:
            for index, record in enumerate(records):
                try:
                    limits.require_carried(record)
                    effect.apply(record)
                except (NotNow, Never, errors.MalformedRecord) as problem:
                    raise _Refused(index, problem) from problem
            positions = {record.source: record.offset + 1 for record in records}
            effect.save(positions)
        self._show(positions)
        metrics.CONSUMER_RECORDS.labels(self._consumer).inc(len(records))
        letters.handled(records)

    def _skip(self, record: port.Record) -> None:
        with self._handler.transaction() as effect:
            effect.save({record.source: record.offset + 1})
        self._show({record.source: record.offset + 1})

    def _show(self, positions: Mapping[port.TopicPartition, int]) -> None:
        self._stands = {**self._stands, **positions}
        if isinstance(self._log, port.ShowsPositions):
            self._log.show_positions(self._consumer, positions)

    def _lag(self) -> float:
        """Counted when somebody looks, from a thread of theirs: a consumer that is stuck or halted cannot hide it."""
        try:
            ends = [self._log.end_offsets(topic) for topic in {source.topic for source in self._sources}]
        except errors.LogUnavailable:
            return math.nan
        stands = self._stands
        return float(sum(end - stands.get(source, 0) for part in ends for source, end in part.items()))
