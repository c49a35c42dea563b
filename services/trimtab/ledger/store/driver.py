"""SQLAlchemy over apsw: the SQLite that is installed from PyPI instead of the machine's own.

SQLite before 3.51.3 can corrupt a WAL that several connections write and checkpoint; Python's `sqlite3` is whatever
the machine ships. This is the part of DB-API 2 that SQLAlchemy uses. Transactions are begun by `store.database`;
without one every statement commits by itself. Registered as `sqlite+apsw`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import apsw
from sqlalchemy.dialects.sqlite import pysqlite
from sqlalchemy.engine import interfaces

OLDEST_SAFE = (3, 51, 3)

apilevel = "2.0"
threadsafety = 1
paramstyle = "qmark"
sqlite_version_info = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
Error = DatabaseError = OperationalError = ProgrammingError = InterfaceError = apsw.Error
IntegrityError = apsw.ConstraintError
Binary = bytes


class Cursor:
    """One statement at a time; rows are tuples."""

    arraysize = 100

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._cursor.exec_trace = self._describe
        self.description: tuple[Any, ...] | None = None
        self.rowcount = -1

    def _describe(self, cursor: apsw.Cursor, _sql: str, _bindings: Any) -> bool:
        # apsw forgets the columns of a query without rows once it has run; before it runs it knows them
        self.description = cursor.get_description() or None
        return True

    @property
    def lastrowid(self) -> int:
        return int(self._connection.last_insert_rowid())

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        self._cursor.execute(statement, tuple(parameters))
        self.rowcount = self._connection.changes() if self.description is None else -1

    def executemany(self, statement: str, parameters: Sequence[Sequence[Any]]) -> None:
        self._cursor.executemany(statement, parameters)
        self.rowcount = -1

    def fetchone(self) -> tuple[Any, ...] | None:
        return self._cursor.fetchone()

    def fetchmany(self, size: int | None = None) -> list[tuple[Any, ...]]:
        rows = (self._cursor.fetchone() for _ in range(size or self.arraysize))
        return [row for row in rows if row is not None]

    def fetchall(self) -> list[tuple[Any, ...]]:
        return list(self._cursor.fetchall())

    def close(self) -> None:
        self._cursor.close(True)


class Connection:
    """An apsw connection with DB-API's transaction verbs."""

    def __init__(self, path: str, timeout: float = 30.0) -> None:
        self._connection = apsw.Connection(path)
        self._connection.set_busy_timeout(int(timeout * 1000))

    def cursor(self) -> Cursor:
        return Cursor(self._connection)

    def commit(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()


connect = Connection


class Dialect(pysqlite.SQLiteDialect_pysqlite):
    """The SQLite dialect on this driver."""

    driver = "apsw"
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> interfaces.DBAPIModule:
        import sys

        return sys.modules[__name__]

    def on_connect(self) -> Callable[[interfaces.DBAPIConnection], None]:
        return lambda _connection: None

    def create_connect_args(self, url: Any) -> Any:
        return [url.database or ":memory:"], {}

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        return isinstance(e, apsw.ConnectionClosedError)

    def detect_autocommit_setting(self, dbapi_conn: interfaces.DBAPIConnection) -> bool:
        return False
