"""The database: one writer at a time, readers on snapshots. Every ledger module gets its connections here."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy import exc

from trimtab.core import clock, errors
from trimtab.ledger.store import dialects, rows, tables


class Store(Protocol):
    """What the ledger writes through: a `Database`, or one that asks at each write who leads (`ledger.leading`)."""

    def write(self) -> contextlib.AbstractContextManager[sa.Connection]:
        """A transaction that commits at the end and rolls back on an exception. Writers take turns."""
        ...

    def read(self) -> contextlib.AbstractContextManager[sa.Connection]:
        """A transaction that sees one moment, whatever is written meanwhile."""
        ...


class Database:
    """Opens (and creates) the tables at a URL, `sqlite:////var/lib/trimtab/ledger.db` or
    `postgresql://user@host:port/database`. A database of an older version begins anew; WrongState for a newer.

    password: of a server that asks for one; None: libpq finds it by itself. now: the clock of a SQLite database;
    PostgreSQL has its own. paused_s: see `store.dialects`. ServiceUnavailable here and from every transaction while a
    server is away; what a transaction has done is then either there or not.
    """

    def __init__(
        self, url: str, *, password: str | None = None, now: clock.Clock = clock.utc_now, paused_s: float = 30.0
    ) -> None:
        self._dialect = dialects.of(url, now, paused_s, password)
        self._engine = self._dialect.engine()
        self._writing = threading.Lock()
        with self.write() as connection:
            self._dialect.check(connection)
            version = self.version(connection)
            require_known(version, self._engine.url.database or "")
            if version != tables.VERSION:
                self._empty(connection)
            tables.METADATA.create_all(connection)

    @property
    def shared(self) -> bool:
        """Whether other processes may write to it."""
        return self._dialect.shared

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """See `Store`."""
        with self._writing, _watched(self._dialect), self._dialect.writing(self._engine) as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """See `Store`."""
        with _watched(self._dialect), self._dialect.reading(self._engine) as connection:
            yield connection

    def version(self, connection: sa.Connection) -> int:
        """Of the tables that are there; `tables.VERSION`, unless another version of the ledger came since."""
        return self._dialect.version(connection)

    def now_us(self, connection: sa.Connection) -> int:
        """The time that leases go by, in microseconds since 1970: that of the server, where there is one."""
        return rows.to_us(self._dialect.now(connection))

    def close(self) -> None:
        self._engine.dispose()

    def _empty(self, connection: sa.Connection) -> None:
        """What another version left goes, but for the leases: `ledger.restoring` rebuilds it like a lost database."""
        tables.METADATA.create_all(connection, tables=[tables.LEASES])
        lead = sa.select(tables.LEASES).where(tables.LEASES.c.name == tables.LEAD)
        led = connection.execute(lead).one_or_none()
        if led is not None and led.expires_us > self.now_us(connection):
            raise errors.WrongState(
                f"The database has tables of version {self.version(connection)}, this ledger wants version "
                f"{tables.VERSION}, and {led.holder} works with it. Stop that one first: the tables begin anew."
            )
        rebuilt = [table for table in tables.METADATA.sorted_tables if table is not tables.LEASES]
        tables.METADATA.drop_all(connection, tables=rebuilt)
        self._dialect.set_version(connection, tables.VERSION)


def require(url: str, password: str | None) -> None:
    """InvalidField or ServiceUnavailable where a ledger could not work with the database; nothing changes there."""
    dialect = dialects.of(url, clock.utc_now, 0.0, password)
    engine = dialect.engine()
    try:
        with _watched(dialect), dialect.reading(engine) as connection:
            dialect.check(connection)
    finally:
        engine.dispose()


@contextlib.contextmanager
def _watched(dialect: dialects.Dialect) -> Iterator[None]:
    try:
        yield
    except exc.DBAPIError as problem:
        outage = dialect.outage(problem)
        if outage is None:
            raise
        raise outage from problem


def require_known(version: int, name: str) -> None:
    """WrongState when a newer ledger has made the tables of the database with this name."""
    if version > tables.VERSION:
        raise errors.WrongState(
            f"The ledger's database {name} has tables of version {version}, and this ledger knows up to "
            f"{tables.VERSION}: start the version that made them, or one that came after. To go back all the same, "
            "give the ledger an empty database; it is made again from the log."
        )
