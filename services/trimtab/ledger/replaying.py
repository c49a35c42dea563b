"""A ledger as it once was: completions, feedback and scores up to earlier offsets of the log, in a database of its own.

Used by `trimtab rollout audit`. The records go through the consumer that folded them the first time, so what comes out
is what the ledger knew when it had read exactly so far.
"""

import contextlib
import datetime
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import NoReturn

from trimtab.bus import letters, port, topics
from trimtab.core import clock, errors
from trimtab.ledger import consumer
from trimtab.ledger.store import database

_BATCH = 2000
# Clocks of different hosts: what is that much older is read all the same.
_CLOCKS = datetime.timedelta(hours=1)


class _NoArtifacts:
    """Data sets are read for topic `models`, which is not replayed."""

    def fetch(self, model_id: str) -> NoReturn:
        raise errors.NotFound("artifact", model_id)


def replay(
    log: port.EventLog,
    store: database.Database,
    upto: Mapping[str, int],
    since: datetime.datetime,
    *,
    refused: Collection[letters.Place] = (),
    now: clock.Clock = clock.utc_now,
    tell: Callable[[int], None] = lambda read: None,
) -> None:
    """Fills an empty database, or goes on with one that was filled up to earlier offsets.

    upto: next offset by "topic/partition", as evidence keeps it. since: nothing older matters. refused: what the ledger
    refused then and might read now. tell: is told how many records have been read. WrongState when what stood in the
    log since then may have been cleaned up.
    """
    handler = consumer.Consumer(store, _NoArtifacts(), targets={}, on_emitted=lambda: None, on_caught_up=lambda: None)
    positions, read = handler.positions(), 0
    for name, end in sorted(upto.items()):
        topic, _, partition = name.rpartition("/")
        source = port.TopicPartition(topic, int(partition))
        with contextlib.closing(log.reader({source: positions.get(source, 0)})) as reader:
            while (begun := reader.position(source)) < end:
                records = [one for one in reader.poll(_BATCH, timeout_s=0.0) if one.offset < end]
                if begun == 0 and (not records or records[0].offset > 0):
                    _refuse_if_cleaned(source, since, now())
                with handler.transaction() as effect:
                    for record in records:
                        if record.timestamp >= since - _CLOCKS and letters.place_of(record) not in refused:
                            with contextlib.suppress(errors.MalformedRecord):  # a dead letter the first time, too
                                effect.apply(record)
                    effect.save({source: end if not records else min(end, reader.position(source))})
                read += len(records)
                tell(read)
                if not records:
                    break


def _refuse_if_cleaned(source: port.TopicPartition, since: datetime.datetime, now: datetime.datetime) -> None:
    days = topics.ALL[source.topic].retention_days
    if since < now - datetime.timedelta(days=days):
        raise errors.WrongState(
            f"The log keeps topic {source.topic!r} for {days} days, and the release began on {since:%Y-%m-%d}: "
            "its first records were cleaned up."
        )


def scratch(folder: pathlib.Path) -> database.Database:
    """An empty database in a folder."""
    return database.Database(f"sqlite:///{folder.absolute() / 'ledger.db'}")
