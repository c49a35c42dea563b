"""Wrong designs that the harness must catch. Each is made at the composition root of a real process (`process`)."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from trimtab.bus import connect, port
from trimtab.bus.sqlite import SqliteLog
from trimtab.ledger import consumer, joining
from trimtab.ledger.store import feedback as feedback_store
from trimtab.ledger.store import offsets, tables

_SLOW_DISK_S = 0.2


@dataclasses.dataclass(frozen=True, slots=True)
class Mutant:
    """program: the process it is made in; log, row: where it is tried; caught_by: the check that must catch it."""

    words: str
    program: str
    log: str
    row: int
    caught_by: str
    make: Callable[[], None]


def _unacknowledged_producer() -> None:
    from trimtab.bus.kafka import clients

    clients.kafka.KafkaProducer = functools.partial(_producer_of, clients.kafka.KafkaProducer)


def _producer_of(producer: Any, **settings: Any) -> Any:
    return producer(**{**settings, "acks": 0, "enable_idempotence": False})


class _EagerLog(SqliteLog):
    """Says yes, and stores the record a moment later, as on a slow disk."""

    def append(self, records: Sequence[port.NewRecord]) -> Any:
        threading.Timer(_SLOW_DISK_S, super().append, [records]).start()
        said: Any = concurrent.futures.Future()
        said.set_result([port.Position(record.topic, 0, 0) for record in records])
        return said


def _early_acknowledgement() -> None:
    connect.sqlite.SqliteLog = _EagerLog


class _Heedless(consumer.Consumer):
    """Does not look whether the database stands where it believes it to: that alone would catch the next two."""

    def _hold_positions(self, connection: Any) -> None:
        pass


class _PositionsFirst(_Heedless):
    """A transaction for where to go on, and then one for what the records did."""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Any]:
        with super().transaction() as effect:
            yield effect
            with self._store.write() as connection:
                offsets.save(connection, effect._pending.positions)


class _PositionsAfter(_Heedless):
    """A transaction for what the records did, and then one for where to go on."""

    def _commit(self, connection: Any, pending: Any) -> int:
        positions, pending.positions = pending.positions, {}
        try:
            return super()._commit(connection, pending)
        finally:
            pending.positions = positions

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Any]:
        with super().transaction() as effect:
            yield effect
        with self._store.write() as connection:
            offsets.save(connection, effect._pending.positions)


def _positions_first() -> None:
    consumer.Consumer = _PositionsFirst


def _positions_after_without_deduplication() -> None:
    consumer.Consumer = _PositionsAfter
    named = joining._root_name
    feedback_store._stored = lambda connection, batch: {}
    joining._first_of_each_identity = lambda members, standings: list(members)
    joining._root_name = lambda item: f"{named(item)} {item.key}"
    for index in tables.FEEDBACK.indexes:
        index.unique = False


def _deduplication_by_body() -> None:
    def first_of_each_body(members: Sequence[Any], standings: dict[int, Any]) -> list[Any]:
        first: dict[Any, Any] = {}
        for item in sorted(members, key=lambda item: item.order):
            if first.setdefault((item.subject, item.digest), item) is not item:
                standings[item.key] = joining.Standing(joining.ledger.FeedbackStatus.CONFLICT, "the body is known")
        return list(first.values())

    joining._first_of_each_identity = first_of_each_body


ALL = {
    "acks-0": Mutant(
        "a producer that waits for no broker (acks=0)", "feedback", "kafka", 1, "lost", _unacknowledged_producer
    ),
    "early-ok": Mutant("an OK before the commit", "feedback", "sqlite", 1, "lost", _early_acknowledgement),
    "positions-first": Mutant(
        "the ledger's positions saved before its state", "ledger", "sqlite", 3, "lost", _positions_first
    ),
    "positions-after": Mutant(
        "positions saved after the state, nothing de-duplicated",
        "ledger",
        "sqlite",
        3,
        "duplicated",
        _positions_after_without_deduplication,
    ),
    "by-body": Mutant("de-duplication by body instead of by id", "ledger", "sqlite", 4, "lost", _deduplication_by_body),
}
