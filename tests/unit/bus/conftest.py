"""A real log in a temporary folder, and a consumer's own store in another real file."""

import contextlib
import pathlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping

import pytest

from trimtab.bus import port
from trimtab.bus.sqlite import SqliteLog


@pytest.fixture
def log(tmp_path: pathlib.Path) -> Iterator[SqliteLog]:
    with contextlib.closing(SqliteLog(tmp_path / "log.db", deadline_s=30.0)) as opened:
        yield opened


class Store:
    """A `runner.Handler` over SQL: effects and positions in one file. The test sets what happens on the way."""

    def __init__(self, path: pathlib.Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("CREATE TABLE effects (partition INTEGER, offset INTEGER, value BLOB)")
        self._connection.execute("CREATE TABLE positions (topic, partition, next, PRIMARY KEY (topic, partition))")
        self.on_record: Callable[[port.Record], None] = lambda record: None
        self.on_save: Callable[[Mapping[port.TopicPartition, int]], None] = lambda positions: None
        self.after_commit: Callable[[], None] = lambda: None
        self.commits = 0

    def positions(self) -> dict[port.TopicPartition, int]:
        rows = self._connection.execute("SELECT topic, partition, next FROM positions")
        return {port.TopicPartition(topic, partition): offset for topic, partition, offset in rows}

    @contextlib.contextmanager
    def transaction(self) -> Iterator["Store"]:
        self._connection.execute("BEGIN")
        try:
            yield self
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        self.commits += 1
        self.after_commit()

    def apply(self, record: port.Record) -> None:
        self._connection.execute(
            "INSERT INTO effects VALUES (?, ?, ?)", (record.partition, record.offset, record.value)
        )
        self.on_record(record)

    def save(self, positions: Mapping[port.TopicPartition, int]) -> None:
        rows = [(source.topic, source.partition, offset) for source, offset in positions.items()]
        self._connection.executemany("INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", rows)
        self.on_save(positions)

    def values(self) -> list[bytes]:
        return [value for (value,) in self._connection.execute("SELECT value FROM effects ORDER BY rowid")]

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Iterator[Store]:
    with contextlib.closing(Store(tmp_path / "store.db")) as opened:
        yield opened
