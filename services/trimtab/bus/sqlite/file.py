"""The file of the embedded log: version check, schema, connections, and the lock that writers take turns with.

Rows of `records` are found by one integer, `source << OFFSET_BITS | offset`: a plain rowid table keeps 8 MiB values
out of the inner pages of the tree, which a composite primary key would not.
"""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import apsw

from trimtab.bus import topics
from trimtab.core import errors

OFFSET_BITS = 44
SCHEMA_VERSION = 1
# Earlier versions can corrupt a write-ahead log that several processes write (the WAL-reset bug).
OLDEST_SAFE_SQLITE = (3, 51, 3)
_SYNC_FULL = 2

_SCHEMA = """
CREATE TABLE sources (
    id INTEGER PRIMARY KEY,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    next_offset INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, partition)
) STRICT;
CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    at_us INTEGER NOT NULL,
    key BLOB NOT NULL,
    headers TEXT NOT NULL,
    value BLOB NOT NULL
) STRICT;
CREATE TABLE cleanings (id INTEGER PRIMARY KEY CHECK (id = 1), at_us INTEGER NOT NULL) STRICT;
INSERT INTO cleanings VALUES (1, 0);
"""


class RefusedToStart(errors.WrongState):
    """The log cannot be used safely as things are; `str()` says why and what to do."""


def require_safe_sqlite(version: str) -> None:
    """RefusedToStart unless `version` ("3.51.3") has the repair of the WAL-reset bug."""
    if tuple(int(part) for part in version.split(".")) < OLDEST_SAFE_SQLITE:
        needed = ".".join(str(part) for part in OLDEST_SAFE_SQLITE)
        raise RefusedToStart(
            f"The event log needs SQLite {needed} or newer and this is {version}, which can corrupt a log that several "
            f"processes write; install apsw {needed} or newer."
        )


def connect(path: pathlib.Path, busy_s: float) -> apsw.Connection:
    """A connection that makes every commit durable before it returns."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
    connection.set_busy_timeout(int(busy_s * 1000))
    connection.pragma("synchronous", _SYNC_FULL)
    connection.pragma("journal_size_limit", 64 * topics.MIB)
    return connection


def version(path: pathlib.Path) -> int:
    """The number that the program that made the tables of a SQLite file gave them. Reads only; ArtifactCorrupt when it
    is no such file."""
    try:
        with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
            return int(connection.pragma("user_version"))
    except apsw.Error as problem:
        raise errors.ArtifactCorrupt(f"{path} cannot be read as a database: {problem}.") from problem


def prepare(path: pathlib.Path, turnstile: "Turnstile", busy_s: float) -> dict[tuple[str, int], int]:
    """Creates what is missing in the file; the id of every (topic, partition)."""
    with turnstile.held(), contextlib.closing(connect(path, busy_s)) as connection:
        connection.pragma("journal_mode", "wal")
        with transaction(connection):
            found = connection.pragma("user_version")
            if found > SCHEMA_VERSION:
                raise RefusedToStart(
                    f"The event log {path} is of version {found}, and this program reads up to {SCHEMA_VERSION}: "
                    "start the version that wrote it, or one that came after."
                )
            if found == 0:
                connection.execute(_SCHEMA)
                connection.pragma("user_version", SCHEMA_VERSION)
            for topic in topics.ALL.values():
                _add_topic(connection, topic)
        found = rows(connection, "SELECT topic, partition, id FROM sources")
    return {(topic, partition): source for topic, partition, source in found}


def _add_topic(connection: apsw.Connection, topic: topics.Topic) -> None:
    present = connection.execute("SELECT count(*) FROM sources WHERE topic = ?", (topic.name,)).get
    if present not in (0, topic.partitions):
        raise RefusedToStart(
            f"Topic {topic.name} has {present} partitions in this event log and {topic.partitions} in this program; "
            "partition counts never change: keys would move."
        )
    connection.executemany(
        "INSERT OR IGNORE INTO sources (topic, partition) VALUES (?, ?)",
        ((topic.name, partition) for partition in range(topic.partitions)),
    )


def rows(
    connection: apsw.Connection, query: str, bindings: tuple[Any, ...] | dict[str, Any] = ()
) -> list[tuple[Any, ...]]:
    """All rows of a query. The tables are STRICT: a column's values are of the type its schema says."""
    return connection.execute(query, bindings).fetchall()


@contextlib.contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """A write transaction: durable after the block, undone by any exception."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


@contextlib.contextmanager
def as_unavailable() -> Iterator[None]:
    """What SQLite and the file system say about the file, said as LogUnavailable."""
    try:
        yield
    except (apsw.Error, OSError) as problem:
        raise errors.LogUnavailable(f"The event log is not available: {problem}.") from problem


class Turnstile:
    """A fair lock between processes: whoever waits goes before whoever has just been through.

    The kernel hands an flock to whichever process asks first after a release, and a busy writer asks first every
    time. So there are two: only the one holder of `gate` waits for `write`, and a writer that comes back queues at
    the gate behind it. A killed holder's locks are released by the kernel.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._gate = os.open(path.with_name(path.name + ".gate"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._write = os.open(path.with_name(path.name + ".write"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Blocks until it is this process's turn. For one thread at a time."""
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._write, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._write, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._gate)
        os.close(self._write)
