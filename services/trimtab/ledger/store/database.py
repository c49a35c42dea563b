"""The database: one writer at a time, readers on snapshots. Every ledger module gets its connections here."""

import contextlib
import threading
from collections.abc import Iterator

import sqlalchemy
from sqlalchemy import dialects, engine, event

from trimtab.core import errors
from trimtab.ledger.store import driver, tables

dialects.registry.register("sqlite.apsw", "trimtab.ledger.store.driver", "Dialect")


class Database:
    """Opens (and creates) the tables at a URL such as `sqlite:////var/lib/trimtab/ledger.db`. A database of another
    version begins anew."""

    def __init__(self, url: str) -> None:
        address = engine.make_url(url)
        if address.get_backend_name() != "sqlite" or not address.database:
            raise errors.InvalidField("database", f"is {url!r}", "give sqlite:/// and an absolute path to a file")
        if driver.sqlite_version_info < driver.OLDEST_SAFE:
            raise errors.InvalidField("database", "needs SQLite 3.51.3 or newer", "install a newer apsw")
        self._engine = sqlalchemy.create_engine(address.set(drivername="sqlite+apsw"), pool_size=8, max_overflow=24)
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)
        self._writing = threading.Lock()
        with self.write() as connection:
            if connection.exec_driver_sql("PRAGMA user_version").scalar() != tables.VERSION:
                _empty(connection)
            tables.METADATA.create_all(connection)

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlalchemy.Connection]:
        """A transaction that commits at the end and rolls back on an exception. Writers take turns."""
        immediate = self._engine.execution_options(begin="BEGIN IMMEDIATE")
        with self._writing, immediate.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlalchemy.Connection]:
        """A transaction that sees one moment, whatever is written meanwhile."""
        with self._engine.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        self._engine.dispose()


def _empty(connection: sqlalchemy.Connection) -> None:
    """What another version left goes, but for the leases: `ledger.restoring` rebuilds it like a lost database."""
    rebuilt = [table for table in tables.METADATA.sorted_tables if table is not tables.LEASES]
    tables.METADATA.drop_all(connection, tables=rebuilt)
    connection.exec_driver_sql(f"PRAGMA user_version = {tables.VERSION}")


def _configure(connection: driver.Connection, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "cache_size = -65536", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
        cursor.fetchall()
    cursor.close()


def _begin(connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))
