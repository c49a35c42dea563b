"""What differs between the databases a ledger may have: SQLite, a file of one process, and PostgreSQL, for several.

Used by `store.database` and `store.tables`; the SQL of all other modules is the same on both.
"""

import contextlib
import datetime
import os
from collections.abc import Iterator
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import dialects, engine, event, exc

from trimtab.core import clock, errors
from trimtab.ledger.store import driver

dialects.registry.register("sqlite.apsw", "trimtab.ledger.store.driver", "Dialect")

# Last in, first out: each connection has caches of its own, and in turns all of them would come to be full.
_POOL = {"pool_size": 8, "max_overflow": 24, "pool_use_lifo": True}
# Of libpq: a server that is away is noticed within seconds, also by a connection that has nothing to send.
_CONNECT = {
    "client_encoding": "utf8",
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# The advisory lock that writers of one database (and schema) take turns by: two numbers.
_CLASS, _OBJECT = 1953655149, "hashtext(current_schema())"
_TRY_TURN = f"SELECT pg_try_advisory_xact_lock({_CLASS}, {_OBJECT})"
_TURN = f"SELECT pg_advisory_xact_lock({_CLASS}, {_OBJECT})"
# Ends the connection of one that has its turn and is waited for by the server, not the other way round.
_END_SILENT = (
    "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
    f" AND classid = {_CLASS} AND objid::bigint = {_OBJECT}::bigint & 4294967295"
    " AND wait_event_type = 'Client' AND state_change < clock_timestamp() - make_interval(secs => %s)"
)
_LOOK_MS = 500
_LOCK_NOT_AVAILABLE = "55P03"
_VERSION = sa.Table("version", sa.MetaData(), sa.Column("version", sa.Integer, nullable=False))


class Dialect(Protocol):
    """One kind of database. shared: several processes may write to it, and need a lead for that."""

    shared: bool

    def engine(self) -> sa.Engine: ...

    def writing(self, engine: sa.Engine) -> contextlib.AbstractContextManager[sa.Connection]:
        """A transaction that sees all that was committed before it, and that no other writes beside."""
        ...

    def reading(self, engine: sa.Engine) -> contextlib.AbstractContextManager[sa.Connection]:
        """A transaction that sees one moment."""
        ...

    def check(self, connection: sa.Connection) -> None:
        """InvalidField when this server or library must not be used."""
        ...

    def version(self, connection: sa.Connection) -> int:
        """What `set_version` was last told here; 0 in an empty database."""
        ...

    def set_version(self, connection: sa.Connection, version: int) -> None: ...

    def now(self, connection: sa.Connection) -> datetime.datetime:
        """The time that all who share the database agree on."""
        ...

    def outage(self, problem: exc.DBAPIError) -> errors.ServiceUnavailable | None:
        """What to say when the problem is the database's being away, and passes; None for any other."""
        ...


def of(url: str, now: clock.Clock, paused_s: float, password: str | None = None) -> Dialect:
    """The dialect of a URL; InvalidField for any other database. now: SQLite's clock. paused_s,
    password: see `Postgres`."""
    try:
        address = engine.make_url(url)
    except exc.ArgumentError:
        address = None
    if address is not None and address.get_backend_name() == "sqlite" and address.database:
        return Sqlite(address, now)
    if address is not None and address.get_backend_name() == "postgresql" and address.host and address.database:
        return Postgres(address, paused_s, password)
    shown = repr(url if address is None else address.render_as_string(hide_password=True))
    remedy = "give sqlite:/// and an absolute path to a file, or postgresql://user@host:port/database"
    raise errors.InvalidField("database", f"is {shown}", remedy)


class Sqlite:
    """A file on this machine, for one process."""

    shared = False

    def __init__(self, address: engine.URL, now: clock.Clock) -> None:
        self._address = address
        # a machine's clock that is set neither ends a lease that is renewed nor holds one up whose holder is gone
        self._now = clock.steady(now)

    def engine(self) -> sa.Engine:
        made = sa.create_engine(self._address.set(drivername="sqlite+apsw"), **_POOL)
        event.listen(made, "connect", _set_pragmas)
        event.listen(made, "begin", _begin)
        return made

    @contextlib.contextmanager
    def writing(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        with engine.execution_options(begin="BEGIN IMMEDIATE").begin() as connection:
            yield connection

    @contextlib.contextmanager
    def reading(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        with engine.connect() as connection, connection.begin():
            yield connection

    def check(self, connection: sa.Connection) -> None:
        if driver.sqlite_version_info < driver.OLDEST_SAFE:
            raise errors.InvalidField("database", "needs SQLite 3.51.3 or newer", "install a newer apsw")

    def version(self, connection: sa.Connection) -> int:
        return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())

    def set_version(self, connection: sa.Connection, version: int) -> None:
        connection.exec_driver_sql(f"PRAGMA user_version = {version}")

    def now(self, connection: sa.Connection) -> datetime.datetime:
        return self._now()

    def outage(self, problem: exc.DBAPIError) -> errors.ServiceUnavailable | None:
        return None


class Postgres:
    """A server that several processes share.

    Writers take turns by an advisory lock, as they do by BEGIN IMMEDIATE in SQLite: what is read and then written, such
    as the next sequence of a partition, stands still in between. paused_s: who has its turn and is silent for so long
    is ended by the next, so that a process that was paused in the middle of a transaction holds up nobody for longer.
    (The server's own timer for that is turned off by a flush after the last statement, and psycopg sends some.)
    password: None leaves it to libpq.
    """

    shared = True

    def __init__(self, address: engine.URL, paused_s: float, password: str | None) -> None:
        if address.password is not None or "password" in address.query:
            raise errors.InvalidField(
                "database", "holds a password, and settings are logged", "put it into TRIMTAB_DATABASE_PASSWORD_FILE"
            )
        self._address = address
        self._password = password
        self._paused_s = paused_s

    def engine(self) -> sa.Engine:
        address = self._address.set(drivername="postgresql+psycopg", password=self._password)
        wanted = {**_CONNECT, "application_name": f"trimtab ledger {os.getpid()}"}
        options = {name: value for name, value in wanted.items() if name not in address.query}
        try:
            made = sa.create_engine(address, connect_args=options, pool_pre_ping=True, **_POOL)
        except ImportError:
            raise errors.InvalidField(
                "database", "needs the library psycopg, which is not installed", "install trimtab[postgres]"
            ) from None
        event.listen(made, "connect", _set_up)
        return made

    @contextlib.contextmanager
    def writing(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        # each statement sees what was committed before it: so all of them what the writer before has committed
        with engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
            self._take_turn(connection)
            yield connection

    def _take_turn(self, connection: sa.Connection) -> None:
        taken = connection.exec_driver_sql(_TRY_TURN).scalar_one()
        while not taken:
            try:
                with connection.begin_nested():
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOOK_MS}ms'")
                    connection.exec_driver_sql(_TURN)
                    connection.exec_driver_sql("SET LOCAL lock_timeout = DEFAULT")
                taken = True
            except exc.OperationalError as problem:
                if getattr(problem.orig, "sqlstate", "") != _LOCK_NOT_AVAILABLE:
                    raise
                connection.exec_driver_sql(_END_SILENT, (self._paused_s,))

    @contextlib.contextmanager
    def reading(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    def check(self, connection: sa.Connection) -> None:
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != "UTF8":
            remedy = "create it with ENCODING 'UTF8' TEMPLATE template0"
            raise errors.InvalidField("database", f"keeps text as {encoding}", remedy)

    def version(self, connection: sa.Connection) -> int:
        _VERSION.create(connection, checkfirst=True)
        return int(connection.scalar(sa.select(_VERSION.c.version)) or 0)

    def set_version(self, connection: sa.Connection, version: int) -> None:
        connection.execute(sa.delete(_VERSION))
        connection.execute(sa.insert(_VERSION).values(version=version))

    def now(self, connection: sa.Connection) -> datetime.datetime:
        moment: datetime.datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        return moment

    def outage(self, problem: exc.DBAPIError) -> errors.ServiceUnavailable | None:
        if not isinstance(problem, exc.OperationalError | exc.InterfaceError) and not problem.connection_invalidated:
            return None
        why = next(iter(str(problem.orig).splitlines()), "no reason given")
        place = f"{self._address.host}:{self._address.port or 5432}"
        return errors.ServiceUnavailable(
            f"PostgreSQL at {place}, database {self._address.database!r}, does not serve the ledger ({why}); "
            "it is needed: start it, or correct `database`."
        )


class PostgresName(sa.types.TypeDecorator[str]):
    """Text in the order of its bytes, as SQLite has it. NUL, which PostgreSQL refuses, is written as \\1\\1 and \\1 as
    \\1\\2: order and equality stay."""

    impl = sa.String(collation="C")
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        if value is None or value.isprintable():
            return value
        return value.replace("\1", "\1\2").replace("\0", "\1\1")

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return value if value is None or "\1" not in value else value.replace("\1\1", "\0").replace("\1\2", "\1")


# The type of every text column.
NAME = sa.String().with_variant(PostgresName(), "postgresql")


def _set_up(connection: Any, _record: object) -> None:
    """Examples leave for the log once they are committed: a server's crash must not take them back."""
    connection.autocommit = True
    with connection.cursor() as cursor:
        off = "current_setting('synchronous_commit') = 'off'"
        cursor.execute(f"SELECT set_config('synchronous_commit', 'on', false) WHERE {off}")
    connection.autocommit = False


def _set_pragmas(connection: driver.Connection, _record: object) -> None:
    cursor = connection.cursor()
    # each connection has a cache of its own; 64 MiB joined no faster than 8, since the system keeps the pages too
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "cache_size = -8192", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
        cursor.fetchall()
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))
