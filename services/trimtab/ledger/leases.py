"""Leases: one holder at a time, and a generation that rises each time the holding is interrupted.

The generation is what publishing is fenced by (`registry`, topic `models`): who lost the lease and does not know it
publishes under an older one and is refused.
"""

import math

import sqlalchemy as sa

from trimtab.core import errors, ledger
from trimtab.ledger.store import database, lineage, rows, tables

_LEASES = tables.LEASES


def acquire(store: database.Database, request: ledger.AcquireLeaseRequest) -> ledger.AcquireLeaseResponse:
    """Grants a free or expired lease under a new generation, renews one's own, or says who holds it."""
    for field, value in (("name", request.name), ("holder", request.holder)):
        if not value:
            raise errors.InvalidField(field, "is empty", "name it")
    if not 0 < request.ttl_s < math.inf:
        raise errors.InvalidField("ttl_s", f"is {request.ttl_s}", "give seconds above 0")
    with store.write() as connection:
        return acquire_in(connection, request, store.now_us(connection))


def acquire_in(
    connection: sa.Connection, request: ledger.AcquireLeaseRequest, now_us: int
) -> ledger.AcquireLeaseResponse:
    """The same, in a transaction that writes, at the store's time."""
    row = connection.execute(sa.select(_LEASES).where(_LEASES.c.name == request.name)).one_or_none()
    standing = row is not None and row.expires_us > now_us
    if row is not None and standing and row.holder != request.holder:
        return ledger.AcquireLeaseResponse(held=False, generation=row.generation, holder=row.holder)
    seen = row.generation if row is not None else 0
    generation = seen if standing else max(seen, lineage.highest_generation(connection)) + 1
    granted = {
        "name": request.name,
        "holder": request.holder,
        "expires_us": now_us + int(request.ttl_s * 1_000_000),
        "generation": generation,
    }
    rows.replace(connection, _LEASES, "name", [granted])
    return ledger.AcquireLeaseResponse(held=True, generation=generation, holder=request.holder)


def release(store: database.Database, request: ledger.ReleaseLeaseRequest) -> None:
    """Lets go of one's own lease; somebody else's, or none, is left alone. The generation is remembered."""
    with store.write() as connection:
        mine = (_LEASES.c.name == request.name, _LEASES.c.holder == request.holder)
        connection.execute(sa.update(_LEASES).where(*mine).values(expires_us=0))
