"""What operators did: topic `audit` as a table. Asked by `trimtab audit`."""

from typing import Any

import sqlalchemy as sa

from trimtab.bus import port
from trimtab.core import audit, ledger
from trimtab.ledger.store import database, rows, tables

_AUDIT = tables.AUDIT


def add(connection: sa.Connection, record: port.Record, entry: audit.AuditRecord) -> None:
    """Stores an act; a copy of one that is known takes its place."""
    row = {
        "id": entry.id,
        "tenant": entry.context.tenant,
        "line": entry.context.line,
        "at_us": rows.to_us(entry.at),
        **rows.bytes_of(record),
    }
    rows.replace(connection, _AUDIT, "id", [row])


def listed(store: database.Database, request: ledger.ListAuditRequest) -> ledger.ListAuditResponse:
    """Newest first."""
    owned = [_AUDIT.c.tenant == request.tenant, *([_AUDIT.c.line == request.line] if request.line else [])]
    query: sa.Select[Any] = (
        sa.select(_AUDIT.c.value, _AUDIT.c.schema).where(*owned).order_by(_AUDIT.c.at_us.desc(), _AUDIT.c.id.desc())
    )
    with store.read() as connection:
        found = connection.execute(query.limit(request.limit) if request.limit else query)
        return ledger.ListAuditResponse(tuple(rows.decoded(row, audit.AuditRecord) for row in found))
