"""How far each partition was read (or, for `examples`, written): saved in the transaction of the effect."""

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from trimtab.bus import port
from trimtab.ledger.store import tables


def load(connection: sa.Connection, topics: Iterable[str]) -> dict[port.TopicPartition, int]:
    """Next offsets by partition, of those that were ever saved."""
    table = tables.OFFSETS
    rows = connection.execute(sa.select(table).where(table.c.topic.in_(list(topics))))
    return {port.TopicPartition(row.topic, row.partition): row.next_offset for row in rows}


def save(connection: sa.Connection, positions: Mapping[port.TopicPartition, int]) -> None:
    table = tables.OFFSETS
    rows = [{"t": source.topic, "p": source.partition, "n": offset} for source, offset in positions.items()]
    if not rows:
        return
    place = sa.and_(table.c.topic == sa.bindparam("t"), table.c.partition == sa.bindparam("p"))
    connection.execute(sa.delete(table).where(place), rows)
    values: dict[str, sa.BindParameter[Any]] = {
        "topic": sa.bindparam("t"),
        "partition": sa.bindparam("p"),
        "next_offset": sa.bindparam("n"),
    }
    connection.execute(sa.insert(table).values(values), rows)


def consumed(connection: sa.Connection, topics: Iterable[str]) -> dict[str, int]:
    """Next offsets as answers carry them: "topic/partition" -> offset."""
    return {str(source): offset for source, offset in sorted(load(connection, topics).items())}
