"""Dead letters: records that can never be handled go to their own topic, bytes and all, up to a limit.

Called by `bus.runner` and `bus.fold`. A burst of them is no bad record but a bad consumer (a wrong version, a wrong
key): beyond the limit the consumer halts, so that a deploy gone wrong does not empty a topic into the dead letters.
The halt stands on the topic too: a consumer that is started again writes no further letter before it has handled
that record, or an operator has let it go on. What is on the topic is read by `bus.letters`, settled by `bus.settling`.
docs/concepts/dead-letters.md says what an operator does about it.

After a crash between the dead letter and the position after it the letter is known by its place, and not written again;
one that the log took without saying so is, and readers take the two as one.
"""

import collections
import contextlib
import dataclasses
import functools
import threading
from collections.abc import Sequence

from trimtab.bus import letters, limits, port, publish, topics
from trimtab.core import audit, clock, errors
from trimtab.obs import logging, metrics
from trimtab.wire import schemas

_log = logging.get(__name__)

MAX_REASON_CHARACTERS = 2000
# Of a record too large for a letter, that much of the value and the key goes along.
BEGINNING_BYTES = 64 * topics.KIB
_LOOK_EVERY_S = 1.0


class Never(Exception):
    """This record can never be handled, however often one tries; `str()` is the reason, a sentence."""


class TooManyDeadLetters(Exception):
    """The consumer halts before the record named here: more records were refused than one bad record explains.

    `wait` blocks until an operator lets it go on (True) or its event is set (False).
    """

    def __init__(self, halted: audit.ConsumerHalted, log: port.EventLog) -> None:
        super().__init__(f"{halted.reason} {remedy(halted)}")
        self.halted = halted
        self.wait = functools.partial(_resumed, log, halted.consumer)


def remedy(halted: audit.ConsumerHalted) -> str:
    """What an operator does about a halt, in sentences."""
    return (
        "Correct the consumer and start it again; its position has not moved past this record. "
        "If the records are bad and not the consumer, "
        f"`trimtab deadletter resume {halted.consumer} --reason WHY` lets it go on."
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    """How many dead letters a consumer may write before it halts.

    consecutive: so many in a row. share: of the last `window` records (a window not yet full counts as if the rest
    of it had been handled).
    """

    consecutive: int = 20
    window: int = 1000
    share: float = 0.05


class DeadLetters:
    """The dead letters of one consumer, and how close it is to its limit.

    Counts start anew with the process; what it has buried, and that it halted, is not forgotten: `recall` comes first.
    """

    def __init__(self, log: port.EventLog, consumer: str, limit: Limit, now: clock.Clock = clock.utc_now) -> None:
        self._log = log
        self._consumer = consumer
        self._limit = limit
        self._now = now
        self._seen = 0
        self._in_a_row = 0
        self._buried_at: collections.deque[int] = collections.deque()
        self._recalled = False
        self._buried: set[letters.Place] = set()
        self._halted: audit.ConsumerHalted | None = None
        self._allowed = 0

    def recall(self) -> None:
        """Reads, once, what this consumer left on the topic before it was started. LogUnavailable: call it again."""
        if self._recalled:
            return
        with contextlib.closing(letters.Letters(self._log)) as known:
            known.refresh()
        self._buried = {place for place, consumer in known.entries if consumer == self._consumer}
        self._halted = known.halted.get(self._consumer)
        self._allowed = known.allowed.get(self._consumer, 0)
        metrics.CONSUMER_HALTED.labels(self._consumer).set(self._halted is not None)
        self._recalled = True

    def handled(self, records: Sequence[port.Record]) -> None:
        """These were handled. The record before which it halted, or one behind it, ends the halt: LogUnavailable when
        that cannot be said yet."""
        if not records:
            return
        self._seen += len(records)
        self._in_a_row = 0
        halted = self._halted
        if halted is not None and any(_is_at_or_behind(record, halted) for record in records):
            reason = f"It has handled {letters.place_of(halted)}."
            self._append(audit.ConsumerResumed(self._consumer, self._now(), self._consumer, reason))
            metrics.CONSUMER_HALTED.labels(self._consumer).set(0)
            self._halted = None

    def bury(self, record: port.Record, reason: str) -> None:
        """Returns when the dead letter is durable. TooManyDeadLetters, and no letter, beyond the limit.

        What this consumer buried before it was started is passed over: it has its letter. What an operator replayed
        counts towards no limit: it says nothing new about the consumer.
        """
        place = letters.place_of(record)
        if place in self._buried:
            return
        replayed = letters.REPLAYED_FROM in record.headers
        counts = not replayed and not self._allowed
        if counts or self._halted is not None:
            self._check(record, reason)
        publish.publish(self._log, topics.DEADLETTER, str(place).encode(), self._letter(record, reason)).result()
        self._buried.add(place)
        if counts:
            self._seen += 1
            self._in_a_row += 1
            self._buried_at.append(self._seen)
        elif not replayed:
            self._allowed -= 1
        metrics.CONSUMER_DEAD_LETTERS.labels(self._consumer).inc()
        _log.error("dead letter", consumer=self._consumer, source=str(place), reason=reason)

    def _letter(self, record: port.Record, reason: str) -> audit.DeadLetter:
        whole = _is_carried(record)
        return audit.DeadLetter(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=record.key if whole else record.key[:BEGINNING_BYTES],
            value=record.value if whole else record.value[:BEGINNING_BYTES],
            headers=record.headers if whole else _schema_of(record),
            consumer=self._consumer,
            reason=reason[:MAX_REASON_CHARACTERS],
            at=self._now(),
            value_bytes=0 if whole else max(1, len(record.value)),
        )

    def _check(self, record: port.Record, reason: str) -> None:
        if self._halted is not None:
            place = letters.place_of(self._halted)
            what = f"it halted before {place} and has not handled that yet"
        elif not (what := self._beyond()):
            return
        said = f"Consumer {self._consumer!r} halts before {letters.place_of(record)}: {what}. Last reason: {reason}"
        halted = audit.ConsumerHalted(
            self._consumer, record.topic, record.partition, record.offset, said[:MAX_REASON_CHARACTERS], self._now()
        )
        if self._halted is None:
            self._append(halted)
            self._halted = halted
        metrics.CONSUMER_HALTED.labels(self._consumer).set(1)
        raise TooManyDeadLetters(halted, self._log)

    def _beyond(self) -> str:
        """Which limit another letter would break; empty when none."""
        limit = self._limit
        while self._buried_at and self._buried_at[0] <= self._seen + 1 - limit.window:
            self._buried_at.popleft()
        if self._in_a_row >= limit.consecutive:
            return f"{limit.consecutive} records in a row were refused already"
        if len(self._buried_at) + 1 > limit.share * limit.window:
            return f"more than {limit.share:.0%} of the last {limit.window} records were refused"
        return ""

    def _append(self, said: audit.ConsumerHalted | audit.ConsumerResumed) -> None:
        publish.publish(self._log, topics.DEADLETTER, said.consumer.encode(), said).result()


def _schema_of(record: port.Record) -> dict[str, bytes]:
    """Of the headers of a record too large for a letter, the one that says what it is."""
    named = record.headers.get(schemas.SCHEMA_HEADER, b"")
    return {schemas.SCHEMA_HEADER: named[:BEGINNING_BYTES]} if named else {}


def _is_at_or_behind(record: port.Record, halted: audit.ConsumerHalted) -> bool:
    """A record behind the one of a halt is handled first where that one has been cleaned up since."""
    return record.source == (halted.topic, halted.partition) and record.offset >= halted.offset


def _is_carried(record: port.Record) -> bool:
    """Whether a letter can hold the whole record."""
    try:
        limits.require_carried(record)
    except errors.MalformedRecord:
        return False
    return True


def _resumed(log: port.EventLog, consumer: str, stop: threading.Event) -> bool:
    """Blocks until an operator has let the consumer go on (True), or `stop` is set (False)."""
    with contextlib.closing(letters.Letters(log)) as known:
        while not stop.is_set():
            try:
                known.refresh()
                if consumer not in known.halted:
                    return True
            except errors.LogUnavailable as problem:
                _log.warning("not now", consumer=consumer, reason=str(problem))
            stop.wait(_LOOK_EVERY_S)
    return False
