"""Small things every table module needs: times as microseconds, long lists in pieces, records as their bytes."""

import collections
import datetime
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.sql import compiler

from trimtab.bus import port
from trimtab.wire import schemas

_Item = TypeVar("_Item")
_Core = TypeVar("_Core")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
# Parameters of one statement: below what SQLite and PostgreSQL take.
_PIECE = 4000


def to_us(moment: datetime.datetime) -> int:
    """Microseconds since 1970."""
    return (moment - _EPOCH) // datetime.timedelta(microseconds=1)


def from_us(microseconds: int) -> datetime.datetime:
    return _EPOCH + datetime.timedelta(microseconds=microseconds)


def matching(
    connection: sa.Connection, query: sa.Select[Any], column: sa.ColumnElement[Any], values: Iterable[_Item]
) -> Iterator[sa.Row[Any]]:
    """The rows of `query` whose column is one of the values."""
    for piece in pieces(dict.fromkeys(values)):
        yield from connection.execute(query.where(column.in_(piece))).all()


def pieces(items: Iterable[_Item], size: int = _PIECE) -> Iterator[list[_Item]]:
    """All of them, so many at a time; by default as many as one statement takes."""
    left = iter(items)
    while piece := list(itertools.islice(left, size)):
        yield piece


def insert(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """Of all rows the columns that the first one has. What SQLAlchemy would find out for each row is found out once."""
    if rows:
        sql, taken = _insert(table, tuple(rows[0]), connection.dialect)
        connection.exec_driver_sql(sql, [taken(row) for row in rows])


@functools.lru_cache(maxsize=64)
def _insert(
    table: sa.Table, columns: tuple[str, ...], dialect: sa.Dialect
) -> tuple[str, Callable[[dict[str, Any]], Any]]:
    """The statement, and what makes of a row what the driver takes."""
    compiled = sa.insert(table).compile(dialect=dialect, column_keys=columns)
    ways = {name: table.c[name].type.dialect_impl(dialect).bind_processor(dialect) for name in columns}
    if isinstance(compiled, compiler.SQLCompiler) and compiled.positiontup is not None:
        placed = [(name, ways[name]) for name in compiled.positiontup]
        return str(compiled), lambda row: tuple(way(row[name]) if way else row[name] for name, way in placed)
    changed = [(name, way) for name, way in ways.items() if way]
    return str(compiled), lambda row: row | {name: way(row[name]) for name, way in changed}


def replace(connection: sa.Connection, table: sa.Table, key: str, rows: Sequence[dict[str, Any]]) -> None:
    """Inserts rows, each in the place of the one with its key."""
    if rows:
        column = table.c[key]
        connection.execute(sa.delete(table).where(column == sa.bindparam("old")), [{"old": row[key]} for row in rows])
        insert(connection, table, rows)


def tallied(key: sa.ColumnElement[str], outcome: sa.ColumnElement[float]) -> sa.Select[str, float, int]:
    """(key, outcome, how often): rows for `summed`."""
    return sa.select(key, outcome, sa.func.count()).group_by(key, outcome)


def summed(tallies: Iterable[Any]) -> dict[str, tuple[int, float]]:
    """By key, how many there are and their sum: rounded once, so that it is the same whichever database counted."""
    counts: collections.Counter[str] = collections.Counter()
    parts: dict[str, list[float]] = collections.defaultdict(list)
    for key, outcome, count in tallies:
        counts[key] += count
        parts[key].append(outcome * count)
    return {key: (count, math.fsum(parts[key])) for key, count in counts.items()}


def bytes_of(record: port.Record) -> dict[str, bytes]:
    """The columns `value` and `schema` of a record of the log."""
    return {"value": record.value, "schema": record.headers.get(schemas.SCHEMA_HEADER, b"")}


def decoded(row: sa.Row[Any], kind: type[_Core]) -> _Core:
    """The record in a row's columns `value` and `schema`."""
    return schemas.decode(row.value, {schemas.SCHEMA_HEADER: row.schema}, kind)
