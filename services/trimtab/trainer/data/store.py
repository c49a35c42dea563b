"""The trainer's own database: stored examples, log offsets, runs and cycles. One SQLite file in the state folder.

`trainer.data.consumer` writes examples and offsets in one transaction; `trainer.runs.worker` and
`trainer.runs.triggers` keep the state of runs and cycles here, so that a killed trainer goes on where it stood. One
process owns the file (`trainer.app` locks the state folder); its threads write one at a time.
"""

import contextlib
import json
import pathlib
import threading
import urllib.parse
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy
from sqlalchemy import Boolean, Column, Integer, LargeBinary, String, Text
from sqlalchemy.dialects import sqlite

from trimtab.bus import port
from trimtab.core import errors, examples, failpoints
from trimtab.trainer.data import cutting
from trimtab.wire import schemas

METADATA = sqlalchemy.MetaData()
EXAMPLES = sqlalchemy.Table(
    "examples",
    METADATA,
    Column("arrival", Integer, primary_key=True, autoincrement=True),
    Column("partition", Integer, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("example_id", String, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("tenant", String, nullable=False),
    Column("line", String, nullable=False),
    Column("trainable", Boolean, nullable=False),
    Column("withdrawn", Boolean, nullable=False),
    Column("schema", LargeBinary, nullable=False),
    Column("value", LargeBinary, nullable=False),
    sqlalchemy.UniqueConstraint("partition", "sequence"),
    sqlalchemy.Index("examples_of_line", "tenant", "line", "example_id"),
)
OFFSETS = sqlalchemy.Table(
    "offsets",
    METADATA,
    Column("topic", String, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("offset", Integer, nullable=False),
)
RUNS = sqlalchemy.Table(
    "runs",
    METADATA,
    Column("ordinal", Integer, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("tenant", String, nullable=False),
    Column("line", String, nullable=False),
    Column("state", String, nullable=False, index=True),
    Column("spec", Text, nullable=False),
    Column("created_at", String, nullable=False),
    Column("started_at", String),
    Column("ended_at", String),
    Column("model_ids", Text, nullable=False, default="[]"),
    Column("problem", Text, nullable=False, default=""),
    Column("step", Integer, nullable=False, default=0),
    Column("steps", Integer, nullable=False, default=0),
    Column("figures", Text, nullable=False, default="{}"),
    Column("asked_by", String, nullable=False, default=""),
    Column("cancel", Boolean, nullable=False, default=False),
    Column("cut_arrival", Integer),
)
# Which quarantines a data set was cut under. owner: the run or the cycle it was cut for.
CUTS = sqlalchemy.Table(
    "cuts",
    METADATA,
    Column("owner", String, primary_key=True),
    Column("release_ids", Text, nullable=False),
)
# What operators did. id: the request's.
AUDITS = sqlalchemy.Table(
    "audits",
    METADATA,
    Column("ordinal", Integer, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("target", String, nullable=False),
    Column("published", Boolean, nullable=False, index=True),
    Column("schema", LargeBinary, nullable=False),
    Column("value", LargeBinary, nullable=False),
)
CYCLES = sqlalchemy.Table(
    "cycles",
    METADATA,
    Column("ordinal", Integer, primary_key=True, autoincrement=True),
    Column("tenant", String, nullable=False),
    Column("line", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("cut_arrival", Integer, nullable=False),
    Column("anchor_id", String, nullable=False),
    Column("dataset_id", String, nullable=False, default=""),
    Column("reward_run_id", String, nullable=False, default=""),
    Column("policy_run_id", String, nullable=False, default=""),
    Column("end_arrival", Integer, nullable=False, default=0),
    Column("outcome", Text, nullable=False, default=""),
    sqlalchemy.UniqueConstraint("tenant", "line", "number"),
)
# Made once: of what storing an example costs, half would be making it.
_ADD = str(
    sqlite.insert(EXAMPLES)
    .on_conflict_do_nothing()
    .values({column.name: sqlalchemy.bindparam(column.name) for column in EXAMPLES.c if not column.primary_key})
    .compile(dialect=sqlite.dialect())
)


# Rises with every change of a table that is here already, which `Store._upgrade` then makes in older files. Files from
# before there were versions say 0.
VERSION = 1


class Store:
    """The database file, made if absent; one of an older version is upgraded. WrongState for one of a newer."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._engine = sqlalchemy.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30.0})
        sqlalchemy.event.listen(self._engine, "connect", _prepare)
        self._writing = threading.RLock()
        with self.reading() as connection:
            require_known(int(connection.exec_driver_sql("PRAGMA user_version").scalar_one()), path)
        METADATA.create_all(self._engine)
        self._upgrade()

    def _upgrade(self) -> None:
        """Gives a file that an earlier version made what this one needs."""
        with self.transaction() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # by itself sqlite3 begins none before it alters a table
            if "end_arrival" not in {column["name"] for column in sqlalchemy.inspect(connection).get_columns("cycles")}:
                connection.exec_driver_sql("ALTER TABLE cycles ADD COLUMN end_arrival INTEGER NOT NULL DEFAULT 0")
                # what its ended cycles had taken up starts no other one
                connection.execute(sqlalchemy.update(CYCLES).values(end_arrival=CYCLES.c.cut_arrival))
            connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlalchemy.Connection]:
        """All that is done with the connection is committed together, or nothing of it."""
        with self._writing, self._engine.begin() as connection:
            yield connection
            failpoints.reach("trainer.store.before_commit")
        failpoints.reach("trainer.store.committed")

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlalchemy.Connection]:
        """A connection to read with."""
        with self._engine.connect() as connection:
            yield connection

    def close(self) -> None:
        self._engine.dispose()


@contextlib.contextmanager
def read_only(path: pathlib.Path) -> Iterator[sqlalchemy.Connection]:
    """A connection of another process, beside the one that owns the file."""
    address = f"file:{urllib.parse.quote(str(path.absolute()))}?mode=ro&uri=true"
    engine = sqlalchemy.create_engine(f"sqlite:///{address}", connect_args={"timeout": 30.0})
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def require_known(version: int, path: pathlib.Path) -> None:
    """WrongState when a newer trainer has written the file."""
    if version > VERSION:
        raise errors.WrongState(
            f"The trainer's database {path} is of version {version}, and this trainer knows up to {VERSION}: start the "
            "version that wrote it, or one that came after."
        )


def _prepare(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode = WAL")  # one sync a transaction, not three
    # An acknowledged run must survive a power cut as a record of the log does.
    connection.execute("PRAGMA synchronous = FULL")


def positions(connection: sqlalchemy.Connection) -> dict[port.TopicPartition, int]:
    """The next offset to read, by partition; partitions never read are absent."""
    rows = connection.execute(sqlalchemy.select(OFFSETS)).all()
    return {port.TopicPartition(row.topic, row.partition): row.offset for row in rows}


def save_position(connection: sqlalchemy.Connection, source: port.TopicPartition, offset: int) -> None:
    """The next offset to read of one partition."""
    upsert(connection, OFFSETS, {"topic": source.topic, "partition": source.partition}, {"offset": offset})


def upsert(
    connection: sqlalchemy.Connection, table: sqlalchemy.Table, key: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    """Updates the row with this key, or inserts it. Safe because writers take turns."""
    where = [table.c[name] == value for name, value in key.items()]
    if connection.execute(sqlalchemy.update(table).where(*where).values(**values)).rowcount == 0:
        connection.execute(sqlalchemy.insert(table).values(**key, **values))


class Received(NamedTuple):
    """An example, and the bytes and schema that it came as: they are kept as they are."""

    example: examples.Example
    value: bytes
    schema: bytes


def add_examples(connection: sqlalchemy.Connection, received: Sequence[Received]) -> int:
    """Stores revisions in this order; returns how many were new: a (partition, sequence) is stored once."""
    if not received:
        return 0
    rows = [
        (
            example.partition,
            example.sequence,
            example.id,
            example.revision,
            example.context.tenant,
            example.context.line,
            cutting.is_trainable(example),
            example.withdrawn,
            schema,
            value,
        )
        for example, value, schema in received
    ]
    return connection.exec_driver_sql(_ADD, rows).rowcount


def examples_until(connection: sqlalchemy.Connection, tenant: str, line: str, arrival: int) -> list[examples.Example]:
    """Every stored revision of a line that arrived by then: the same set however often one asks."""
    rows = connection.execute(
        sqlalchemy.select(EXAMPLES.c.value, EXAMPLES.c.schema)
        .where(*_of(tenant, line), EXAMPLES.c.arrival <= arrival)
        .order_by(EXAMPLES.c.arrival)
    )
    return [schemas.decode(row.value, {schemas.SCHEMA_HEADER: row.schema}, examples.Example) for row in rows]


def newest_arrival(connection: sqlalchemy.Connection) -> int:
    """The arrival number of the newest stored revision; 0 when there is none."""
    return connection.execute(sqlalchemy.select(sqlalchemy.func.max(EXAMPLES.c.arrival))).scalar() or 0


def fix_quarantines(connection: sqlalchemy.Connection, owner: str, in_force: Sequence[str]) -> tuple[str, ...]:
    """Under which quarantines this owner's data set is cut: those in force when it is asked for the first time."""
    decided = connection.execute(sqlalchemy.select(CUTS.c.release_ids).where(CUTS.c.owner == owner)).scalar()
    if decided is None:
        decided = json.dumps(list(in_force))
        connection.execute(sqlalchemy.insert(CUTS).values(owner=owner, release_ids=decided))
    return tuple(json.loads(decided))


def count_new_trainable(
    connection: sqlalchemy.Connection, tenant: str, line: str, since: int, without: Collection[str] = ()
) -> int:
    """Examples first seen after arrival `since` whose latest revision may train, `without` left out."""
    earlier = sqlalchemy.select(EXAMPLES.c.example_id).where(*_of(tenant, line), EXAMPLES.c.arrival <= since)
    new = (*_of(tenant, line), EXAMPLES.c.arrival > since, EXAMPLES.c.example_id.not_in(earlier))
    if without:
        named = sqlalchemy.func.json_each(json.dumps(sorted(without))).table_valued("value")
        new = (*new, EXAMPLES.c.example_id.not_in(sqlalchemy.select(named.c.value)))
    return _count_heads(connection, EXAMPLES.c.trainable, new)


def count_standing(connection: sqlalchemy.Connection, tenant: str, line: str) -> int:
    """Examples whose latest revision is not withdrawn."""
    return _count_heads(connection, ~EXAMPLES.c.withdrawn, _of(tenant, line))


def _of(tenant: str, line: str) -> tuple[sqlalchemy.ColumnElement[bool], ...]:
    return EXAMPLES.c.tenant == tenant, EXAMPLES.c.line == line


def _count_heads(
    connection: sqlalchemy.Connection,
    counted: sqlalchemy.ColumnElement[bool],
    where: tuple[sqlalchemy.ColumnElement[bool], ...],
) -> int:
    """How many of the latest revisions among these rows are `counted`."""
    newest_first = (EXAMPLES.c.revision.desc(), EXAMPLES.c.sequence.desc())
    place = sqlalchemy.func.row_number().over(partition_by=EXAMPLES.c.example_id, order_by=newest_first)
    ranked = sqlalchemy.select(counted.label("counted"), place.label("place")).where(*where).subquery()
    heads = sqlalchemy.select(sqlalchemy.func.count()).select_from(ranked).where(ranked.c.place == 1, ranked.c.counted)
    return connection.execute(heads).scalar() or 0
