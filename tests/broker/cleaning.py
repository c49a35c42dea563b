"""Compaction and retention of a real Kafka, now: what takes it days, with settings that make it take a moment.

Time that is said to have passed is turned into settings: retention so short that just what would be too old by then is
removed. A segment in use is never compacted, so a record of key `FILLER` begins a new one.
"""

import datetime
import time
from collections.abc import Callable, Sequence

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource

from trimtab.bus import port, topics

FILLER = b"filler"
_SEGMENT_MS = 200
_PAUSE_S = 2.0
# In place of the day that tombstones stand.
_TOMBSTONE_S = 6
_WITHIN_S = 60.0
_DAY = datetime.timedelta(days=1)


class Cleaner:
    """Of the topics with one prefix."""

    def __init__(self, servers: Sequence[str], prefix: str) -> None:
        self._prefix = prefix
        self._admin = KafkaAdminClient(bootstrap_servers=list(servers))
        self._consumer = KafkaConsumer(
            bootstrap_servers=list(servers), auto_offset_reset="earliest", enable_auto_commit=False
        )
        # when time was made to pass, and how much
        self._passed: list[tuple[float, datetime.timedelta]] = []
        settings = {"segment.ms": str(_SEGMENT_MS), "min.cleanable.dirty.ratio": "0.0"}
        self._set(list(topics.ALL.values()), settings)
        compacted = [topic for topic in topics.ALL.values() if topic.cleanup is topics.Cleanup.COMPACT]
        self._set(compacted, {"delete.retention.ms": str(1000 * _TOMBSTONE_S)})

    def clean(self, log: port.EventLog, later: datetime.timedelta) -> None:
        self._passed.append((time.time(), later))
        for topic in topics.ALL.values():
            sources = [TopicPartition(self._prefix + topic.name, number) for number in range(topic.partitions)]
            if not any(self._consumer.end_offsets(sources).values()):
                continue
            if topic.cleanup is topics.Cleanup.COMPACT:
                self._compact(log, topic, sources)
            elif topic.cleanup is topics.Cleanup.TIME:
                self._expire(topic, sources)
        time.sleep(_PAUSE_S)  # what comes next stands in a segment of its own, and is younger by more than a look takes

    def close(self) -> None:
        self._admin.close()
        self._consumer.close()

    def _compact(self, log: port.EventLog, topic: topics.Topic, sources: Sequence[TopicPartition]) -> None:
        gone = sum((later for _, later in self._passed), datetime.timedelta()) > _DAY

        def done() -> bool:
            # what is written last is never compacted, and a segment is not left for another before its time
            time.sleep(2 * _SEGMENT_MS / 1000)
            log.append([port.NewRecord(topic.name, FILLER, b"filler")]).result()
            records = self._read(sources)
            keys = [record.key for record in records if record.key != FILLER]
            return len(set(keys)) == len(keys) and not (gone and any(record.value is None for record in records))

        _wait(done)

    def _expire(self, topic: topics.Topic, sources: Sequence[TopicPartition]) -> None:
        limit, passed = datetime.timedelta(days=topic.retention_days), datetime.timedelta()
        newest_too_old = None
        for at, later in reversed(self._passed):
            passed += later
            if passed > limit:
                newest_too_old = at
                break
        if newest_too_old is None:
            return

        def done() -> bool:
            # anew at each look, since what is younger grows older while Kafka takes its time
            self._set([topic], {"retention.ms": str(int(1000 * (time.time() - newest_too_old)))})
            return all(record.timestamp > 1000 * newest_too_old for record in self._read(sources))

        _wait(done)
        self._set([topic], {"retention.ms": str(topic.retention_days * 86_400_000)})

    def _read(self, sources: Sequence[TopicPartition]) -> list:
        self._consumer.assign(list(sources))
        begins, ends = self._consumer.beginning_offsets(list(sources)), self._consumer.end_offsets(list(sources))
        for source in sources:
            self._consumer.seek(source, begins[source])
        found = []
        while any(self._consumer.position(source) < ends[source] for source in sources):
            found += [one for part in self._consumer.poll(timeout_ms=500).values() for one in part]
        return found

    def _set(self, of: Sequence[topics.Topic], settings: dict[str, str]) -> None:
        self._admin.alter_configs([ConfigResource("topic", self._prefix + topic.name, settings) for topic in of])


def _wait(done: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + _WITHIN_S
    while not done():
        if time.monotonic() > give_up_at:
            raise AssertionError("Kafka did not clean up in time")
        time.sleep(0.2)
