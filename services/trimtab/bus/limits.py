"""What every event log holds its callers to: the same checks, bounds and sentences, whichever adapter it is."""

from collections.abc import Mapping

from trimtab.bus import port, topics
from trimtab.core import errors, ids

# Of appends that wait: bounds this process's memory while the log is slow or away.
MAX_WAITING_BYTES = 64 * topics.MIB
MAX_WAITING_APPENDS = 20_000
# What a waiting record costs in memory beside its bytes, roughly.
RECORD_OVERHEAD_BYTES = 512
# Of one poll, unless its first record alone is larger: bounds the memory of a reader of large records.
MAX_POLL_BYTES = 32 * topics.MIB


def topic(name: str) -> topics.Topic:
    """InvalidField when there is none of this name."""
    if name not in topics.ALL:
        raise errors.InvalidField("topic", f"{name!r} does not exist", f"use one of {', '.join(topics.ALL)}")
    return topics.ALL[name]


def require_partition(name: str, partition: int) -> None:
    """InvalidField unless the topic of this name has the partition."""
    count = topic(name).partitions
    if not 0 <= partition < count:
        raise errors.InvalidField("partition", f"{partition} is not one of {name}", f"use 0 to {count - 1}")


def placed(record: port.NewRecord) -> int:
    """The partition of a record that may be appended; InvalidField for one that may not."""
    found = topic(record.topic)
    if len(record.value) > found.max_bytes:
        raise errors.InvalidField(
            "value",
            f"is {len(record.value)} bytes and topic {found.name} takes {found.max_bytes}",
            "send a smaller record",
        )
    if beside_value(record.key, record.headers) > port.MAX_KEY_AND_HEADERS_BYTES:
        raise errors.InvalidField(
            "headers", f"and key are over {port.MAX_KEY_AND_HEADERS_BYTES} bytes", "carry less beside the value"
        )
    if record.partition is None:
        return ids.partition_of(record.key, found.partitions)
    require_partition(record.topic, record.partition)
    return record.partition


def require_carried(record: port.Record) -> None:
    """MalformedRecord for a record larger than its topic takes: another program with other limits wrote it."""
    allowed, beside = topic(record.topic).max_bytes, beside_value(record.key, record.headers)
    if len(record.value) > allowed:
        raise errors.MalformedRecord(f"It is {len(record.value)} bytes and topic {record.topic} takes {allowed}.")
    if beside > port.MAX_KEY_AND_HEADERS_BYTES:
        raise errors.MalformedRecord(
            f"Its key and headers are {beside} bytes and a record may have {port.MAX_KEY_AND_HEADERS_BYTES}."
        )


def beside_value(key: bytes, headers: Mapping[str, bytes]) -> int:
    """Bytes of key and headers together."""
    return len(key) + sum(len(name) + len(value) for name, value in headers.items())


def require_room(waiting: int, bytes_waiting: int, more: int) -> None:
    """Overloaded when `more` bytes would be too much beside what waits; a first append always has room."""
    if waiting and (bytes_waiting + more > MAX_WAITING_BYTES or waiting >= MAX_WAITING_APPENDS):
        raise errors.Overloaded(f"{waiting} appends wait for the event log already; retry with back-off.")


def require_in_log(source: port.TopicPartition, position: int, end: int) -> None:
    """WrongState for a position beyond the end of its partition."""
    if position > end:
        raise errors.WrongState(
            f"The reader stands at {source}@{position} and the log ends at {end}: this is another log than the one the "
            "position was saved from. Rebuild the consumer's store from this log, or restore the log."
        )


def not_stored(why: str = "") -> errors.LogUnavailable:
    """Of an append that was never sent."""
    reason = f" ({why})" if why else ""
    return errors.LogUnavailable(f"The event log did not take the record in time{reason}; not stored.")


def closed() -> errors.LogUnavailable:
    """Of an append to a log that is closed."""
    return errors.LogUnavailable("The event log is closed; nothing was stored.")


def broken(fault: BaseException) -> errors.LogUnavailable:
    """Of an append to a log whose own thread has ended by a fault."""
    return errors.LogUnavailable(
        f"The event log has ended in this process by a fault of ours ({fault!r}); nothing was stored. Start the "
        "process again; retrying the same id is safe."
    )


def perhaps_stored(why: str) -> errors.LogUnavailable:
    """Of an append that was sent and not answered."""
    return errors.LogUnavailable(
        f"The event log did not take the record ({why}); it may be stored yet. Retrying the same id is safe."
    )
