"""Core records onto topics: encodes and appends. Called by every producer; reading back is `wire.schemas.decode`."""

import concurrent.futures
from typing import Any

from trimtab.bus import port, topics
from trimtab.wire import schemas


def publish(
    log: port.EventLog, topic: topics.Topic, key: bytes, record: Any
) -> concurrent.futures.Future[list[port.Position]]:
    """Appends a core record (one that `wire.schemas` knows). Resolves once durable, like `EventLog.append`."""
    return log.append([new_record(topic, key, record)])


def new_record(topic: topics.Topic, key: bytes, record: Any) -> port.NewRecord:
    """The record as bytes, for callers that append several at once."""
    value, headers = schemas.encode(record)
    return port.NewRecord(topic=topic.name, key=key, value=value, headers=headers)


def tombstone(topic: topics.Topic, key: bytes) -> port.NewRecord:
    """Forgets a key of a compacted topic: readers see an empty value, later neither it nor what it replaced."""
    return port.NewRecord(topic=topic.name, key=key, value=b"")
