"""The EventLog port. Adapters: `bus.sqlite` (embedded), `bus.kafka`. What one must do is in tests/contract/bus.

Shaped by Kafka: topics have a fixed number of partitions; a record's key picks its partition; offsets rise within a
partition and are never reused (compaction and retention leave gaps); there is no order across partitions. Readers
assign and seek: where a consumer stands is stored by the consumer, in the same commit as the effect.

Blocking calls: use them from threads. `append` returns a future so that callers may wait in asyncio
(`asyncio.wrap_future`).
"""

import concurrent.futures
import dataclasses
import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

# Key and headers of one record together: a dead letter must be able to carry any record whole.
MAX_KEY_AND_HEADERS_BYTES = 64 * 1024


class TopicPartition(NamedTuple):
    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


@dataclasses.dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to append. Without `partition`, the key decides (`core.ids.partition_of`)."""

    topic: str
    key: bytes
    value: bytes
    headers: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    partition: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A record as read. `timestamp` is when the log took it."""

    topic: str
    partition: int
    offset: int
    timestamp: datetime.datetime
    key: bytes
    value: bytes
    headers: dict[str, bytes]

    @property
    def source(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """Where an appended record stands."""

    topic: str
    partition: int
    offset: int


class Reader(Protocol):
    """Reads assigned partitions in offset order. Not shared between threads."""

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """Up to max_records (fewer when they are large); blocks up to timeout_s when there is none.

        LogUnavailable when the log is away: nothing was skipped, poll again. WrongState when a position lies beyond
        the end of its partition: it was saved from another log.
        """
        ...

    def seek(self, source: TopicPartition, offset: int) -> None:
        """The next poll of this partition starts at `offset` (or the next that exists)."""
        ...

    def position(self, source: TopicPartition) -> int:
        """Where the next poll of this partition starts. It also moves over gaps that compaction and retention left."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class ShowsPositions(Protocol):
    """What a log may do besides: show its own tools where our consumers stand. Nothing here reads it back."""

    def show_positions(self, consumer: str, positions: Mapping[TopicPartition, int]) -> None:
        """Per partition where the consumer's store stands. Returns at once; later or never if the log is away."""
        ...


class EventLog(Protocol):
    def append(self, records: Sequence[NewRecord]) -> concurrent.futures.Future[list[Position]]:
        """Appends in order per partition. Resolves once all are durable; LogUnavailable within the log's deadline: then
        none is stored in the embedded log, and on Kafka the first ones may be.

        Raised at once: InvalidField for an unknown topic or partition, or a record over the topic's limit; Overloaded
        when too much waits in this process already. A cancelled future's records may be stored or not.
        """
        ...

    def reader(self, start: Mapping[TopicPartition, int]) -> Reader:
        """A reader of exactly these partitions, each from its offset (0 = the oldest that is kept)."""
        ...

    def partitions(self, topic: str) -> int: ...

    def end_offsets(self, topic: str) -> dict[TopicPartition, int]:
        """Per partition, the offset the next record will get."""
        ...

    def on_fault(self, tell: Callable[[BaseException], None]) -> None:
        """Has `tell` called, from any thread, when a thread of the log has ended by a fault of ours: what waits is
        refused then, and nothing is taken any more. To be opened again in another process."""
        ...

    def close(self) -> None:
        """Flushes what was accepted, then lets go."""
        ...
