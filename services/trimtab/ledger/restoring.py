"""Rebuilds the ledger from the log without telling readers anything twice or differently.

A lost or older database reads every event again, and emitting as it goes would number examples anew: readers, who drop
by (partition, sequence), would miss some. So first the topic `examples` is taken back, as published; then events are
only stored until all that stood in the log at the start was read; then everything is folded at once, and only what is
missing from the topic, or differs from it, is emitted. Called by `consumer`.
"""

import collections
import contextlib

import sqlalchemy as sa

from trimtab.bus import port, topics
from trimtab.core import errors, examples, failpoints
from trimtab.ledger import joining, settling
from trimtab.ledger.store import database, offsets, rows, tables
from trimtab.ledger.store import examples as example_store
from trimtab.ledger.store import feedback as feedback_store
from trimtab.wire import schemas

_REBUILDING = "rebuilding"
_POLL = 1000
_SCOPES = 2000


def is_rebuilding(connection: sa.Connection) -> bool:
    marks = tables.MARKS
    return connection.scalar(sa.select(marks.c.value).where(marks.c.name == _REBUILDING)) is not None


def take_back(log: port.EventLog, store: database.Store) -> None:
    """Reads the part of topic `examples` that the database has not confirmed: mostly nothing."""
    topic = topics.EXAMPLES
    ends = log.end_offsets(topic.name)
    with store.read() as connection:
        start = dict.fromkeys(ends, 0) | offsets.load(connection, [topic.name])
    behind = {source: end for source, end in ends.items() if start[source] < end}
    with contextlib.closing(log.reader({source: start[source] for source in behind})) as reader:
        while behind:
            records = reader.poll(_POLL, timeout_s=0.0)
            if not records:
                return  # what the end offsets promised has been cleaned up since
            positions = {record.source: record.offset + 1 for record in records}
            with store.write() as connection:
                _store(connection, records)
                offsets.save(connection, positions)
            failpoints.reach("ledger.restore.taken_back")
            start |= positions
            behind = {source: end for source, end in behind.items() if start[source] < end}


def settle_all(store: database.Store, settler: settling.Settler) -> int:
    """Folds every session, some a transaction, and ends the rebuild. Safe to start over."""
    emitted = 0
    last: joining.Scope | None = None
    while True:
        with store.write() as connection:
            scopes = feedback_store.scopes(connection, last, _SCOPES)
            if not scopes:
                connection.execute(sa.delete(tables.MARKS).where(tables.MARKS.c.name == _REBUILDING))
                return emitted
            emitted += settler.settle(connection, set(scopes))
            last = scopes[-1]
        failpoints.reach("ledger.restore.settled")


def _store(connection: sa.Connection, records: list[port.Record]) -> None:
    sequences = example_store.Sequences(connection)
    confirmed: dict[int, int] = collections.defaultdict(int)
    lacking: dict[tuple[int, int], examples.Example] = {}
    for record in records:
        try:
            example = schemas.decode(record.value, record.headers, examples.Example)
        except errors.MalformedRecord:  # a dead letter of the trainer, which may have a number that is not given again
            sequences.move(record.partition, sequences.peek(record.partition) + 1)
            continue
        if example.sequence >= sequences.peek(example.partition):
            lacking.setdefault((example.partition, example.sequence), example)
            sequences.move(example.partition, example.sequence + 1)
        else:
            confirmed[example.partition] = max(example.sequence, confirmed[example.partition])
    example_store.mark_published(connection, confirmed)
    sequences.save()
    if lacking:
        example_store.take_back(connection, list(lacking.values()))
        rows.replace(connection, tables.MARKS, "name", [{"name": _REBUILDING, "value": "yes"}])
