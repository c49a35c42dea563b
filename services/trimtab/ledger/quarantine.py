"""What is in quarantine, and so trains nothing: asked by operators, by the books and by a trace.

The fact itself is in the release's record (topic `rollouts`): which data set's window, and whether it was released. The
examples follow from the members of data sets, whatever arrives first. Decision 0006.
"""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from trimtab.core import ledger, releases
from trimtab.ledger.store import database, rows, tables

USED = ("trained", "held out")
_HELD, _MEMBERS = tables.QUARANTINES, tables.MEMBERSHIPS


def listed(store: database.Database, request: ledger.ListQuarantinesRequest) -> ledger.ListQuarantinesResponse:
    """Every release that ended "worse", newest first, whether what it quarantined was released or not."""
    table = tables.RELEASES
    query: sa.Select[Any] = (
        sa.select(table.c.id, table.c.value, table.c.schema)
        .join(_HELD, _HELD.c.release_id == table.c.id)
        .where(*_of(request.tenant, request.line))
        .order_by(table.c.created_us.desc(), table.c.id.desc())
    )
    with store.read() as connection:
        window = windows().where(*_of(request.tenant, request.line)).subquery()
        counted = sa.select(window.c.release_id, sa.func.count()).group_by(window.c.release_id)
        sizes: dict[str, int] = {row[0]: row[1] for row in connection.execute(counted)}
        return ledger.ListQuarantinesResponse(
            tuple(
                ledger.QuarantineEntry(rows.decoded(row, releases.Release), sizes.get(row.id, 0))
                for row in connection.execute(query)
            )
        )


def windows() -> sa.Select[tuple[str, str]]:
    """(release_id, example_id) of every data window: used by its data set, and not by the one before."""
    earlier = _MEMBERS.alias()
    used_before = sa.exists().where(
        earlier.c.dataset_id == _HELD.c.previous_dataset_id,
        earlier.c.example_id == _MEMBERS.c.example_id,
        earlier.c.disposition.in_(USED),
    )
    return (
        sa.select(_HELD.c.release_id, _MEMBERS.c.example_id)
        .join(_MEMBERS, _MEMBERS.c.dataset_id == _HELD.c.dataset_id)
        .where(_MEMBERS.c.disposition.in_(USED), ~used_before)
    )


def in_force(tenant: str, line: str = "") -> sa.Select[tuple[str, str]]:
    """Of the windows, those that no operator has released."""
    return windows().where(*_of(tenant, line), _HELD.c.in_force)


def holding(connection: sa.Connection, tenant: str, examples: Iterable[str]) -> tuple[str, ...]:
    """Releases whose quarantine holds one of these examples now."""
    query = in_force(tenant)
    return tuple(sorted({row.release_id for row in rows.matching(connection, query, _MEMBERS.c.example_id, examples)}))


def _of(tenant: str, line: str) -> list[sa.ColumnElement[bool]]:
    return [_HELD.c.tenant == tenant, *([_HELD.c.line == line] if line else [])]
