"""Examples: which revision of each is the newest, the vote it is, if it is one, and the outbox they leave by.

Called by `settling` (writes), `outbox` (publishes), `restoring` (takes back what the topic has) and `tracing` (reads).
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from trimtab.bus import port, topics
from trimtab.core import examples, ids
from trimtab.ledger.store import rows, tables
from trimtab.wire import schemas

# Sequences start at 1, so that 0 can mean "none seen yet" to a reader.
FIRST_SEQUENCE = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Newest:
    """What is known of an example's newest revision. state: None when it was taken back from the topic."""

    example_id: str
    tenant: str
    session: bytes
    partition: int
    sequence: int
    revision: int
    withdrawn: bool
    state: bytes | None


@dataclasses.dataclass(frozen=True, slots=True)
class Vote:
    """What an example says of an answer, as evidence: outcome in [0, 1], when and by whom.

    policy_id: that answered; None when nobody knows. release_id, arm: the answer was part of.
    """

    outcome: float
    occurred_us: int
    rater: str
    network: str
    policy_id: str | None
    release_id: str | None
    arm: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """A new revision, and the state it was made from. vote: None of what is none, or does not count."""

    example: examples.Example
    state: bytes | None
    vote: Vote | None = None


_NO_VOTE: dict[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(Vote))


class Sequences:
    """Numbers the outbox within one transaction: per partition rising, without gaps."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        table = tables.SEQUENCES
        self._next = {row.partition: row.next_sequence for row in connection.execute(sa.select(table))}
        self._changed: set[int] = set()

    def peek(self, partition: int) -> int:
        return int(self._next.get(partition, FIRST_SEQUENCE))

    def take(self, partition: int) -> int:
        sequence = self.peek(partition)
        self._next[partition] = sequence + 1
        self._changed.add(partition)
        return sequence

    def move(self, partition: int, sequence: int) -> None:
        """The next one is at least this."""
        self._next[partition] = max(sequence, self.peek(partition))
        self._changed.add(partition)

    def save(self) -> None:
        changed = [{"partition": item, "next_sequence": self._next[item]} for item in sorted(self._changed)]
        rows.replace(self._connection, tables.SEQUENCES, "partition", changed)


def partition_of(session: bytes) -> int:
    return ids.partition_of(session, topics.EXAMPLES.partitions)


def of_sessions(connection: sa.Connection, wanted: set[tuple[str, bytes]]) -> dict[str, Newest]:
    """The newest revisions in these (tenant, session), by example id."""
    table = tables.EXAMPLES
    query = sa.select(*(table.c[field.name] for field in dataclasses.fields(Newest)))
    found = rows.matching(connection, query, table.c.session, (session for _, session in wanted))
    return {row.example_id: Newest(**row._mapping) for row in found if (row.tenant, row.session) in wanted}


def write(connection: sa.Connection, made: Sequence[Made]) -> None:
    """New revisions: into the outbox, and as the newest of their example."""
    newest = {one.example.id: _newest(one) for one in made}
    rows.insert(connection, tables.EXAMPLES, [row for row in newest.values() if row["revision"] == 1])
    revised = [row for row in newest.values() if row["revision"] > 1]
    rows.replace(connection, tables.EXAMPLES, "example_id", revised)
    rows.insert(connection, tables.OUTBOX, [_outbox(one.example, published=False) for one in made])


def confirm(connection: sa.Connection, again: Sequence[Made]) -> None:
    """These examples, taken back from the topic, were made again and are the same."""
    table = tables.EXAMPLES
    if again:
        new: dict[str, sa.BindParameter[Any]] = {name: sa.bindparam(f"new_{name}") for name in ("state", *_NO_VOTE)}
        connection.execute(
            sa.update(table).where(table.c.example_id == sa.bindparam("id")).values(new),
            [
                {"id": one.example.id, "new_state": one.state}
                | {f"new_{name}": value for name, value in _vote(one.vote).items()}
                for one in again
            ],
        )


def take_back(connection: sa.Connection, found: Sequence[examples.Example]) -> None:
    """Examples the topic has and these tables lack, as published."""
    rows.insert(connection, tables.OUTBOX, [_outbox(example, published=True) for example in found])
    newest = {item.id: _newest(Made(item, None)) for item in sorted(found, key=lambda item: item.sequence)}
    rows.replace(connection, tables.EXAMPLES, "example_id", list(newest.values()))


def current(connection: sa.Connection, newest: Iterable[Newest]) -> list[examples.Example]:
    """The records themselves, in the order given."""
    table = tables.OUTBOX
    found = []
    for item in newest:
        place = (table.c.partition == item.partition, table.c.sequence == item.sequence)
        found.append(rows.decoded(connection.execute(sa.select(table).where(*place)).one(), examples.Example))
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Outgoing:
    partition: int
    sequence: int
    record: port.NewRecord


def unpublished(connection: sa.Connection, limit: int) -> list[Outgoing]:
    """The oldest of the outbox that the log has not confirmed, in order within each partition."""
    table = tables.OUTBOX
    query = sa.select(table).where(table.c.published == sa.false()).order_by(table.c.partition, table.c.sequence)
    return [
        Outgoing(
            row.partition,
            row.sequence,
            port.NewRecord(
                topic=topics.EXAMPLES.name,
                key=row.key,
                value=row.value,
                headers={schemas.SCHEMA_HEADER: row.schema},
                partition=row.partition,
            ),
        )
        for row in connection.execute(query.limit(limit)).all()
    ]


def mark_published(connection: sa.Connection, upto: Mapping[int, int]) -> None:
    """The log has the outbox up to these sequences, by partition."""
    table = tables.OUTBOX
    for partition, sequence in upto.items():
        mine = (table.c.partition == partition, table.c.published == sa.false(), table.c.sequence <= sequence)
        connection.execute(sa.update(table).where(*mine).values(published=True))


def _newest(made: Made) -> dict[str, Any]:
    example = made.example
    return {
        "example_id": example.id,
        "tenant": example.context.tenant,
        "line": example.context.line,
        "session": example.context.session_hash,
        "partition": example.partition,
        "sequence": example.sequence,
        "revision": example.revision,
        "withdrawn": example.withdrawn,
        "state": made.state,
        **_vote(made.vote),
    }


def _vote(vote: Vote | None) -> dict[str, Any]:
    """Its columns."""
    return {name: getattr(vote, name) for name in _NO_VOTE} if vote else _NO_VOTE


def _outbox(example: examples.Example, *, published: bool) -> dict[str, Any]:
    value, headers = schemas.encode(example)
    return {
        "partition": example.partition,
        "sequence": example.sequence,
        "key": example.context.session_hash,
        "value": value,
        "schema": headers[schemas.SCHEMA_HEADER],
        "published": published,
    }
