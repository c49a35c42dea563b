"""Dead letters: records that can never be handled go to their own topic, bytes and all, up to a limit.

Called by `bus.runner` and `bus.fold`. A burst of them is no bad record but a bad consumer (a wrong version, a wrong
key): beyond the limit the consumer halts, so that a deploy gone wrong does not empty a topic into the dead letters.
A crash between the dead letter and the position after it writes the letter twice: readers know it by its source.
"""

import collections
import dataclasses

from trimtab.bus import port, publish, topics
from trimtab.core import audit, clock
from trimtab.obs import logging, metrics

_log = logging.get(__name__)

MAX_REASON_CHARACTERS = 2000


class Never(Exception):
    """This record can never be handled, however often one tries; `str()` is the reason, a sentence."""


class TooManyDeadLetters(Exception):
    """The consumer halts before the record named here: more records were refused than one bad record explains."""

    def __init__(self, consumer: str, record: port.Record, limit: str, reason: str) -> None:
        super().__init__(
            f"Consumer {consumer!r} halts before {record.source}@{record.offset}: {limit}. Last reason: {reason} "
            "Correct the consumer and start it again; its position has not moved past this record."
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
    """The dead letters of one consumer, and how close it is to its limit. Counts start anew with the process."""

    def __init__(self, log: port.EventLog, consumer: str, limit: Limit, now: clock.Clock = clock.utc_now) -> None:
        self._log = log
        self._consumer = consumer
        self._limit = limit
        self._now = now
        self._seen = 0
        self._in_a_row = 0
        self._buried_at: collections.deque[int] = collections.deque()

    def handled(self, records: int) -> None:
        """So many records were handled since."""
        if records:
            self._seen += records
            self._in_a_row = 0

    def bury(self, record: port.Record, reason: str) -> None:
        """Returns when the dead letter is durable. TooManyDeadLetters, and no letter, beyond the limit."""
        self._check(record, reason)
        letter = audit.DeadLetter(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=record.key,
            value=record.value,
            headers=record.headers,
            consumer=self._consumer,
            reason=reason[:MAX_REASON_CHARACTERS],
            at=self._now(),
        )
        publish.publish(self._log, topics.DEADLETTER, str(record.source).encode(), letter).result()
        self._seen += 1
        self._in_a_row += 1
        self._buried_at.append(self._seen)
        metrics.CONSUMER_DEAD_LETTERS.labels(self._consumer).inc()
        _log.error(
            "dead letter", consumer=self._consumer, source=str(record.source), offset=record.offset, reason=reason
        )

    def _check(self, record: port.Record, reason: str) -> None:
        limit = self._limit
        while self._buried_at and self._buried_at[0] <= self._seen + 1 - limit.window:
            self._buried_at.popleft()
        if self._in_a_row >= limit.consecutive:
            what = f"{limit.consecutive} records in a row were refused already"
        elif len(self._buried_at) + 1 > limit.share * limit.window:
            what = f"more than {limit.share:.0%} of the last {limit.window} records were refused"
        else:
            return
        raise TooManyDeadLetters(self._consumer, record, what, reason)
