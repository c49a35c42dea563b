"""Topic `deadletter` as it is read: the letters, what operators did about them, and which consumers stand still.

Used by `bus.deadletter` (what a consumer wrote before it was started again), by `bus.settling` (what there is to
replay) and by `trimtab deadletter` and `trimtab status`. Values stay in the log: `Letters.fetch` reads one back.
Blocking calls: use them from threads, one at a time.
"""

import contextlib
import dataclasses
import datetime
from typing import Any, NamedTuple, Protocol

from trimtab.bus import port, tail, topics
from trimtab.core import audit, errors
from trimtab.wire import schemas

# Header of a replayed record: the places where it was refused, oldest first.
REPLAYED_FROM = "trimtab-replayed-from"
_TOPIC = port.TopicPartition(topics.DEADLETTER.name, 0)
_POLL_S = 0.05
_CATCH_UP_S = 60.0


class Place(NamedTuple):
    """Where a record stood; written `feedback/3@5`."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}"


class Placed(Protocol):
    """A record, or one on topic `deadletter` about it."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...


def place_of(record: Placed) -> Place:
    return Place(record.topic, record.partition, record.offset)


def parse_place(written: str) -> Place:
    """The place that is written so; InvalidField when none is."""
    source, at, offset = written.rpartition("@")
    topic, _, partition = source.rpartition("/")
    if not (at and topic in topics.ALL and partition.isdecimal() and offset.isdecimal()):
        raise errors.InvalidField(
            "SOURCE", f"{written!r} is no place in the log", "write it as `trimtab deadletter list` does: feedback/3@5"
        )
    return Place(topic, int(partition), int(offset))


def replayed_from(headers: dict[str, bytes]) -> tuple[str, ...]:
    """Where a record was refused before it came here, oldest first; nothing for one that was never replayed."""
    return tuple(headers.get(REPLAYED_FROM, b"").decode(errors="replace").split())


def first_offset(record: port.Record) -> int:
    """Where the record stood in its partition before it was replayed: there it counts, now and after any rebuild."""
    before = replayed_from(record.headers)
    if not before:
        return record.offset
    with contextlib.suppress(errors.InvalidField):
        place = parse_place(before[0])
        if place[:2] == record.source and place.offset < record.offset:
            return place.offset
    return record.offset


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """What one consumer refused at one place. A letter that was written twice is one entry.

    times: how often it was written. at: offset of the newest on topic `deadletter`. value_bytes: size of the value as
    it stood; whole: whether the letter carries all of it.
    """

    place: Place
    consumer: str
    reason: str
    first_at: datetime.datetime
    last_at: datetime.datetime
    times: int
    at: int
    schema: str
    value_bytes: int
    whole: bool
    replayed_from: tuple[str, ...]


class Letters:
    """Everything on the topic, without the values. unreadable: records that a newer version wrote there."""

    def __init__(self, log: port.EventLog) -> None:
        self._log = log
        self._tail = tail.Tail(log, topics.DEADLETTER, within_s=_CATCH_UP_S)
        self.entries: dict[tuple[Place, str], Entry] = {}
        self.settled: dict[Place, audit.DeadLetterSettled] = {}
        # By consumer, those that stand still now; and of each the letters it may still write since it was let go on.
        self.halted: dict[str, audit.ConsumerHalted] = {}
        self.allowed: dict[str, int] = {}
        self.unreadable = 0

    def refresh(self) -> None:
        """Reads to the topic's present end. LogUnavailable when it cannot."""
        for record in self._tail.read():
            self._take(record)

    def fetch(self, entry: Entry) -> audit.DeadLetter:
        """The newest letter of an entry, whole; NotFound when it has been cleaned up since."""
        with contextlib.closing(self._log.reader({_TOPIC: entry.at})) as reader:
            for record in reader.poll(1, _POLL_S):
                if record.offset == entry.at:
                    return schemas.decode(record.value, record.headers, audit.DeadLetter)
        raise errors.NotFound("dead letter", str(entry.place))

    def close(self) -> None:
        self._tail.close()

    def _take(self, record: port.Record) -> None:
        match read(record):
            case audit.DeadLetter() as letter:
                self._add(record, letter)
            case audit.DeadLetterSettled() as settled:
                self.settled[place_of(settled)] = settled
            case audit.ConsumerHalted() as halted:
                self.halted[halted.consumer] = halted
                self.allowed.pop(halted.consumer, None)
            case audit.ConsumerResumed() as resumed:
                self.halted.pop(resumed.consumer, None)
                self.allowed[resumed.consumer] = resumed.letters
            case _:
                self.unreadable += 1

    def _add(self, record: port.Record, letter: audit.DeadLetter) -> None:
        place = place_of(letter)
        known = self.entries.get((place, letter.consumer))
        self.entries[place, letter.consumer] = Entry(
            place=place,
            consumer=letter.consumer,
            reason=letter.reason,
            first_at=known.first_at if known else letter.at,
            last_at=letter.at,
            times=known.times + 1 if known else 1,
            at=record.offset,
            schema=letter.headers.get(schemas.SCHEMA_HEADER, b"").decode(errors="replace"),
            value_bytes=letter.value_bytes or len(letter.value),
            whole=not letter.value_bytes,
            replayed_from=replayed_from(letter.headers),
        )
        if self.allowed.get(letter.consumer, 0) and known is None and REPLAYED_FROM not in letter.headers:
            self.allowed[letter.consumer] -= 1


def read(record: port.Record) -> Any:
    """What a record of topic `deadletter` says; None for one that this version cannot read."""
    with contextlib.suppress(errors.MalformedRecord):
        return schemas.decode_any(record.value, record.headers)
    return None
