"""The trainer's door from topic `examples`: every record into the store, its offset in the same transaction.

`trainer.app` hands it to a `bus.runner.Runner`. Which line an example belongs to and whether anything starts is not
decided here (`trainer.runs.triggers`). The small topics `rollouts` and `models` are folded by `trainer.links.known`.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping

import sqlalchemy

from trimtab.bus import port, runner
from trimtab.core import errors, examples
from trimtab.obs import metrics
from trimtab.trainer.data import store
from trimtab.wire import schemas

CONSUMER = "trainer"
# Records of one transaction: they share its sync.
BATCH = runner.Batch(max_records=2000)


class Examples:
    """A `bus.runner.Handler`."""

    def __init__(self, database: store.Store) -> None:
        self._database = database

    def positions(self) -> Mapping[port.TopicPartition, int]:
        with self._database.reading() as connection:
            return store.positions(connection)

    @contextlib.contextmanager
    def transaction(self) -> Iterator["_Effect"]:
        with self._database.transaction() as connection:
            yield _Effect(connection)


class _Effect:
    """Collects; what was received is stored with the positions after it."""

    def __init__(self, connection: sqlalchemy.Connection) -> None:
        self._connection = connection
        self._received: list[store.Received] = []

    def apply(self, record: port.Record) -> None:
        example = schemas.decode(record.value, record.headers, examples.Example)
        if example.kind is None and not example.withdrawn:
            raise errors.MalformedRecord("Its `kind` is missing, or one that only a newer version knows.")
        strength = example.kind.strength if isinstance(example.kind, examples.PairExample) else None
        if not (math.isfinite(example.propensity) and math.isfinite(strength or 0.0)):
            figures = f"`propensity` is {example.propensity} and `strength` {strength}"
            raise errors.MalformedRecord(f"Its {figures}: no numbers to weigh with.")
        self._received.append(store.Received(example, record.value, record.headers[schemas.SCHEMA_HEADER]))

    def save(self, positions: Mapping[port.TopicPartition, int]) -> None:
        new = store.add_examples(self._connection, self._received)
        metrics.TRAINER_DUPLICATES.inc(len(self._received) - new)
        for source, offset in positions.items():
            store.save_position(self._connection, source, offset)
