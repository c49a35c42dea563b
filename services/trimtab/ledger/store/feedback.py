"""Feedback events: one row a distinct event, with how often it came and what became of it. Called by `settling`."""

import collections
import dataclasses
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from trimtab.bus import port
from trimtab.core import feedback, ledger
from trimtab.ledger import answers, events, joining
from trimtab.ledger.store import rows, tables

_CACHED = 4_000
_WAITING = ledger.FeedbackStatus.WAITING
_TABLE = tables.FEEDBACK
_Identity = tuple[bytes, str, str, bytes]
Arrival = tuple[port.Record, events.Received]


class Feedback:
    """Remembers the events it saw last, so that a session's history is not decoded again. Used by one thread.

    New events are written once, with what became of them: until `write` they are here alone.
    """

    def __init__(self) -> None:
        self._cache: collections.OrderedDict[int, events.Received] = collections.OrderedDict()
        self._new: dict[int, dict[str, Any]] = {}
        self._new_in: dict[joining.Scope, list[dict[str, Any]]] = {}

    def add(self, connection: sa.Connection, batch: Sequence[Arrival], known: answers.Answers) -> set[joining.Scope]:
        """Takes in the events that are new and counts the copies of the others. Returns the scopes that changed."""
        stored = _stored(connection, batch)
        next_pk = (connection.scalar(sa.select(sa.func.max(_TABLE.c.pk))) or 0) + 1
        new: dict[_Identity, dict[str, Any]] = {}
        touched: set[joining.Scope] = set()
        for record, received in batch:
            identity = (received.subject, received.tenant, received.event.id, received.digest)
            row = new.get(identity) or stored.get(identity)
            if row is None:
                row = new[identity] = {"pk": next_pk + len(new), "copies": 0}
            else:
                row["copies"] += 1
                row["changed"] = True
                if received.order >= row["order"]:
                    continue
                # A signed copy after an unverified one: it is the signed one that counts from now on.
            row.update(_columns(record, dataclasses.replace(received, key=row["pk"]), known))
            self._remember(row["received"])
            touched.add((row["tenant"], row["scope"]))
        _rewrite(connection, [row for row in stored.values() if row.get("changed")])
        self._hold(new.values())
        return touched

    def _hold(self, new: Iterable[dict[str, Any]]) -> None:
        for row in new:
            self._new[row["pk"]] = row
            self._new_in.setdefault((row["tenant"], row["scope"]), []).append(row)

    def judge(self, connection: sa.Connection, verdicts: Mapping[int, tuple[joining.Standing, str]]) -> None:
        """What became of events, by row, with the line they belong to."""
        judged = {pk: _judged(*verdict) for pk, verdict in verdicts.items()}
        for pk in judged.keys() & self._new.keys():
            self._new[pk].update(judged.pop(pk))
        if judged:
            names = ("status", "reason", "example_id", "line")
            connection.execute(
                sa.update(_TABLE)
                .where(_TABLE.c.pk == sa.bindparam("row"))
                .values({name: sa.bindparam(f"new_{name}") for name in names}),
                [{"row": pk, **{f"new_{name}": row[name] for name in names}} for pk, row in judged.items()],
            )

    def write(self, connection: sa.Connection) -> None:
        """Stores the new events, before their transaction commits."""
        new, names = list(self._new.values()), _TABLE.c.keys()
        self._let_go()
        rows.insert(connection, _TABLE, [{name: row[name] for name in names} for row in new])
        targets = {(item.uuid.bytes, row["pk"]) for row in new for item in row["received"].targets}
        targets -= {(row["uuid"], row["pk"]) for row in new}
        rows.insert(
            connection, tables.FEEDBACK_TARGETS, [{"uuid": item, "feedback_pk": pk} for item, pk in sorted(targets)]
        )

    def _let_go(self) -> None:
        self._new.clear()
        self._new_in.clear()

    def about(self, connection: sa.Connection, arrived: Sequence[answers.Answer]) -> set[joining.Scope]:
        """The scopes of events that were there before their completion; those of bare UUIDs learn their session."""
        query = sa.select(_TABLE.c.pk, _TABLE.c.tenant, _TABLE.c.scope, _TABLE.c.uuid)
        sessions = {(answer.uuid.bytes, answer.context.tenant): answer.context.session_hash for answer in arrived}
        touched: set[joining.Scope] = set()
        for row in about(connection, query, [answer.uuid.bytes for answer in arrived]):
            scope = sessions.get((row.uuid, row.tenant), row.scope)
            if scope != row.scope:
                connection.execute(sa.update(_TABLE).where(_TABLE.c.pk == row.pk).values(scope=scope))
            touched.add((row.tenant, scope))
        return touched

    def of_scopes(
        self, connection: sa.Connection, scopes: Iterable[joining.Scope]
    ) -> list[tuple[events.Received, joining.Standing, str]]:
        """Every event of these scopes, with what was last said of it and the line it was counted under."""
        wanted = set(scopes)
        found = []
        for row in rows.matching(connection, sa.select(_TABLE), _TABLE.c.scope, (scope for _, scope in wanted)):
            if (row.tenant, row.scope) in wanted:
                standing = joining.Standing(ledger.FeedbackStatus(row.status), row.reason, row.example_id)
                found.append((self._received(row), standing, row.line))
        for scope in wanted & self._new_in.keys():
            found += [
                (new["received"], joining.Standing(_WAITING, new["reason"]), new["line"]) for new in self._new_in[scope]
            ]
        return found

    def _received(self, row: sa.Row[Any]) -> events.Received:
        received = self._cache.get(row.pk)
        if received is None:
            event = rows.decoded(row, feedback.FeedbackEvent)
            received = events.receive(event, partition=row.partition, offset=row.offset, key=row.pk)
            self._remember(received)
        return received

    def _remember(self, received: events.Received) -> None:
        self._cache[received.key] = received
        while len(self._cache) > _CACHED:
            self._cache.popitem(last=False)

    def forget(self) -> None:
        """After a transaction that did not commit: its row numbers will be given again."""
        self._cache.clear()
        self._let_go()


def about(connection: sa.Connection, query: sa.Select[Any], wanted: Collection[bytes]) -> list[sa.Row[Any]]:
    """The rows of `query`, of the table of feedback, whose events are about answers with these UUIDs."""
    targets = tables.FEEDBACK_TARGETS
    beside = query.join(targets, targets.c.feedback_pk == _TABLE.c.pk)
    return [
        *rows.matching(connection, query, _TABLE.c.uuid, wanted),
        *rows.matching(connection, beside, targets.c.uuid, wanted),
    ]


def _judged(standing: joining.Standing, line: str) -> dict[str, str]:
    """The columns."""
    return {
        "status": standing.status.value,
        "reason": standing.reason,
        "example_id": standing.example_id,
        "line": line,
    }


def _rewrite(connection: sa.Connection, copied: Iterable[dict[str, Any]]) -> None:
    """Rows that came again, but for what became of them."""
    kept = {"pk", "status", "reason"}
    for row in copied:
        values = {name: row[name] for name in row.keys() & set(_TABLE.c.keys()) - kept}
        connection.execute(sa.update(_TABLE).where(_TABLE.c.pk == row["pk"]).values(values))


def scopes(connection: sa.Connection, after: joining.Scope | None, limit: int) -> list[joining.Scope]:
    """All scopes in order, a piece at a time: what a rebuild goes through."""
    columns = (_TABLE.c.scope, _TABLE.c.tenant)
    query = sa.select(*columns).distinct().order_by(*columns).limit(limit)
    if after is not None:
        query = query.where(
            sa.tuple_(*columns) > sa.tuple_(sa.literal(after[1]), sa.literal(after[0], _TABLE.c.tenant.type))
        )
    return [(row.tenant, row.scope) for row in connection.execute(query)]


def _stored(connection: sa.Connection, batch: Sequence[Arrival]) -> dict[_Identity, dict[str, Any]]:
    columns = ("pk", "tenant", "scope", "uuid", "feedback_id", "digest", "partition", "offset", "copies")
    query = sa.select(*(_TABLE.c[name] for name in columns), _TABLE.c.verified)
    ids = {received.event.id for _, received in batch}
    return {
        (row.uuid, row.tenant, row.feedback_id, row.digest): {
            **{name: getattr(row, name) for name in columns},
            "order": (not row.verified, row.partition, row.offset),
        }
        for row in rows.matching(connection, query, _TABLE.c.uuid, (received.subject for _, received in batch))
        if row.feedback_id in ids
    }


def _columns(record: port.Record, received: events.Received, known: answers.Answers) -> dict[str, Any]:
    tenant, scope = joining.scope_of(received, known)
    return {
        "tenant": tenant,
        "line": received.context.line,
        "scope": scope,
        "uuid": received.subject,
        "feedback_id": received.event.id,
        "digest": received.digest,
        "verified": received.event.verified,
        "partition": received.partition,
        "offset": received.offset,
        "received_us": rows.to_us(record.timestamp),
        "status": _WAITING.value,
        "reason": joining.NO_COMPLETION,
        "example_id": "",
        **rows.bytes_of(record),
        "order": received.order,
        "received": received,
    }


def uuids_of(batch: Iterable[events.Received]) -> set[uuid.UUID]:
    """The completions these events are about."""
    return {target.uuid for received in batch for target in received.targets}
