"""How many of each thing the ledger has, so that the books of a line balance. Asked by the CLI, the demo and tests."""

import sqlalchemy as sa

from trimtab.core import ledger
from trimtab.ledger import consumer, quarantine, unjoinable
from trimtab.ledger.store import database, offsets, rows, tables

_STATUS = ledger.FeedbackStatus


def counts(store: database.Database, request: ledger.CountsRequest, overdue_us: int = 0) -> ledger.CountsResponse:
    """One moment of the database. An empty line means all lines of the tenant.

    Feedback whose completion is unknown belongs to no line yet and is counted with every line of its tenant.
    overdue_us: see `unjoinable`.
    """
    with store.read() as connection:
        by_status, duplicates, reasons = _feedback(connection, request)
        lost = unjoinable.count(connection, overdue_us, *_of_line(request, tables.FEEDBACK, ""))
        return ledger.CountsResponse(
            completions=_total(connection, request, tables.COMPLETIONS),
            feedback=sum(by_status.values()),
            waiting=by_status.get(_STATUS.WAITING, 0) - lost,
            unjoinable=lost,
            joined=by_status.get(_STATUS.JOINED, 0),
            superseded=by_status.get(_STATUS.SUPERSEDED, 0),
            conflicts=by_status.get(_STATUS.CONFLICT, 0),
            rejected=by_status.get(_STATUS.REJECTED, 0),
            duplicates=duplicates,
            examples=_total(connection, request, tables.EXAMPLES, tables.EXAMPLES.c.withdrawn == sa.false()),
            rejected_by_reason=reasons,
            dispositions=_dispositions(connection, request),
            consumed=offsets.consumed(connection, [topic.name for topic in consumer.TOPICS]),
            votes=_votes(connection, request),
        )


def _of_line(request: ledger.CountsRequest, table: sa.Table, *also: str) -> list[sa.ColumnElement[bool]]:
    owned = [table.c.tenant == request.tenant]
    return [*owned, table.c.line.in_([request.line, *also])] if request.line else owned


def _total(
    connection: sa.Connection, request: ledger.CountsRequest, table: sa.Table, *rules: sa.ColumnElement[bool]
) -> int:
    query = sa.select(sa.func.count()).select_from(table).where(*_of_line(request, table), *rules)
    return int(connection.scalar(query) or 0)


def _feedback(
    connection: sa.Connection, request: ledger.CountsRequest
) -> tuple[dict[ledger.FeedbackStatus, int], int, dict[str, int]]:
    table = tables.FEEDBACK
    query = (
        sa.select(table.c.status, table.c.reason, sa.func.count(), sa.func.sum(table.c.copies))
        .where(*_of_line(request, table, ""))
        .group_by(table.c.status, table.c.reason)
    )
    by_status: dict[ledger.FeedbackStatus, int] = {}
    reasons: dict[str, int] = {}
    duplicates = 0
    for name, reason, count, copies in connection.execute(query):
        status = _STATUS(name)
        by_status[status] = by_status.get(status, 0) + count
        duplicates += copies
        if status is _STATUS.REJECTED:
            reasons[reason] = count
    return by_status, duplicates, reasons


def _dispositions(connection: sa.Connection, request: ledger.CountsRequest) -> dict[str, int]:
    table = tables.USES
    held = quarantine.in_force(request.tenant, request.line).subquery()
    is_held = sa.and_(table.c.disposition.in_(quarantine.USED), table.c.example_id.in_(sa.select(held.c.example_id)))
    now = sa.case((is_held, "quarantined"), else_=table.c.disposition).label("now")
    query = sa.select(now, sa.func.count()).where(*_of_line(request, table)).group_by("now")
    return {row[0]: row[1] for row in connection.execute(query)}


def _votes(connection: sa.Connection, request: ledger.CountsRequest) -> tuple[ledger.PolicyVotes, ...]:
    table = tables.EXAMPLES
    known = table.c.policy_id.is_not(None)
    query = rows.tallied(table.c.policy_id, table.c.outcome).where(*_of_line(request, table), known)
    found = rows.summed(connection.execute(query))
    return tuple(ledger.PolicyVotes(policy_id, *votes) for policy_id, votes in sorted(found.items()))
