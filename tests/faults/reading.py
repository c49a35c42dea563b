"""What a log holds, read from its beginning to the end that it has at the time."""

import contextlib
from collections.abc import Iterable
from typing import TypeVar

from trimtab.bus import port, topics
from trimtab.core import examples
from trimtab.wire import schemas

_Record = TypeVar("_Record")


def records(log: port.EventLog, topic: topics.Topic) -> list[port.Record]:
    """Every record of a topic, whoever goes on writing to it. LogUnavailable when the log is away."""
    ends = log.end_offsets(topic.name)
    with contextlib.closing(log.reader(dict.fromkeys(ends, 0))) as reader:
        found: list[port.Record] = []
        while any(reader.position(source) < end for source, end in ends.items()):
            found += reader.poll(1000, 0.1)
    return found


def decoded(log: port.EventLog, topic: topics.Topic, kind: type[_Record]) -> list[_Record]:
    return [schemas.decode(record.value, record.headers, kind) for record in records(log, topic)]


def standing(revisions: Iterable[examples.Example]) -> list[examples.Example]:
    """The newest revision of each example that is not withdrawn."""
    newest: dict[str, examples.Example] = {}
    for example in revisions:
        if example.id not in newest or example.revision > newest[example.id].revision:
            newest[example.id] = example
    return [example for example in newest.values() if not example.withdrawn]
