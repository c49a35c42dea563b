"""Models, data sets with their members, and releases. Called by `consumer` (writes) and `tracing` (reads)."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping

import sqlalchemy as sa

from trimtab.bus import port
from trimtab.core import ledger, models, releases
from trimtab.ledger.store import rows, tables

_LEFT_OUT = "quarantined"


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """What became of an example in one data set."""

    example_id: str
    disposition: str
    reason: str = ""


def add_model(connection: sa.Connection, record: port.Record, model: models.PublishedModel) -> None:
    """Stores a model in the place of what was known under its id."""
    row = {
        "id": model.id,
        "tenant": model.context.tenant,
        "line": model.context.line,
        "kind": model.kind.value,
        "generation": model.generation,
        **rows.bytes_of(record),
    }
    rows.replace(connection, tables.MODELS, "id", [row])
    sources = dict.fromkeys(model.parents, False) | dict.fromkeys(model.datasets, True)
    table = tables.MODEL_SOURCES
    connection.execute(sa.delete(table).where(table.c.model_id == model.id))
    edges = [{"model_id": model.id, "source_id": source, "dataset": dataset} for source, dataset in sources.items()]
    rows.insert(connection, table, edges)


def add_members(connection: sa.Connection, dataset: models.PublishedModel, members: Iterable[Member]) -> None:
    """Stores a data set's members, some at a time; of examples in several, this is the last use. To be left out is no
    use."""
    connection.execute(sa.delete(tables.MEMBERSHIPS).where(tables.MEMBERSHIPS.c.dataset_id == dataset.id))
    for piece in rows.pieces(members):
        _add_members(connection, dataset, {member.example_id: member for member in piece})


def _add_members(connection: sa.Connection, dataset: models.PublishedModel, named: Mapping[str, Member]) -> None:
    table = tables.MEMBERSHIPS
    again = sa.delete(table).where(table.c.dataset_id == dataset.id, table.c.example_id == sa.bindparam("old"))
    connection.execute(again, [{"old": name} for name in named])
    rows.insert(
        connection, table, [{"dataset_id": dataset.id, **dataclasses.asdict(member)} for member in named.values()]
    )
    place = {"tenant": dataset.context.tenant, "line": dataset.context.line}
    uses = [
        place | {"example_id": name, "disposition": member.disposition}
        for name, member in named.items()
        if member.disposition != _LEFT_OUT
    ]
    rows.replace(connection, tables.USES, "example_id", uses)


def add_release(connection: sa.Connection, record: port.Record, release: releases.Release) -> None:
    """Stores a release's newest record; that of a controller that was replaced without knowing it is passed over, and
    an older one that was replayed."""
    table = tables.RELEASES
    query = sa.select(table.c.value, table.c.schema)
    for stored in rows.matching(connection, query, table.c.id, [release.id]):
        known = rows.decoded(stored, releases.Release)
        if (known.generation, known.revision) > (release.generation, release.revision):
            return
    row = {
        "id": release.id,
        "tenant": release.context.tenant,
        "candidate_id": release.candidate_id,
        "generation": release.generation,
        "created_us": rows.to_us(release.created_at),
        **rows.bytes_of(record),
    }
    rows.replace(connection, tables.RELEASES, "id", [row])
    if release.quarantine is not None:
        held = {
            "release_id": release.id,
            "tenant": release.context.tenant,
            "line": release.context.line,
            "dataset_id": release.quarantine.dataset_id,
            "previous_dataset_id": release.quarantine.previous_dataset_id,
            "in_force": release.quarantine.in_force,
        }
        rows.replace(connection, tables.QUARANTINES, "release_id", [held])


def highest_generation(connection: sa.Connection) -> int:
    """The highest that was ever published under: a lease must never grant less, not even after a rebuild."""
    highest = (connection.scalar(sa.select(sa.func.max(table.c.generation))) for table in _FENCED)
    return max(value or 0 for value in highest)


_FENCED = (tables.MODELS, tables.RELEASES)


def memberships(
    connection: sa.Connection, tenant: str, examples: Iterable[str]
) -> tuple[ledger.DatasetMembership, ...]:
    """Of these examples, in the tenant's data sets."""
    table = tables.MEMBERSHIPS
    query = (
        sa.select(table)
        .join(tables.MODELS, tables.MODELS.c.id == table.c.dataset_id)
        .where(tables.MODELS.c.tenant == tenant)
    )
    found = rows.matching(connection, query, table.c.example_id, examples)
    ordered = sorted(found, key=lambda row: (row.example_id, row.dataset_id))
    return tuple(
        ledger.DatasetMembership(row.example_id, row.dataset_id, row.disposition, row.reason) for row in ordered
    )


def trained_examples(connection: sa.Connection, datasets: Iterable[str]) -> int:
    """How many examples these data sets trained with, each once."""
    table = tables.MEMBERSHIPS
    query = sa.select(table.c.example_id).where(table.c.disposition == "trained")
    return len({row.example_id for row in rows.matching(connection, query, table.c.dataset_id, datasets)})


def models_by_id(connection: sa.Connection, tenant: str, wanted: Iterable[str]) -> dict[str, models.PublishedModel]:
    table = tables.MODELS
    query = sa.select(table.c.id, table.c.value, table.c.schema).where(table.c.tenant == tenant)
    return {
        row.id: rows.decoded(row, models.PublishedModel) for row in rows.matching(connection, query, table.c.id, wanted)
    }


def sources_of(connection: sa.Connection, model_ids: Iterable[str]) -> set[str]:
    """All a model was made from, and what that was made from, to the end."""
    table = tables.MODEL_SOURCES
    return _closure(connection, model_ids, table.c.model_id, table.c.source_id)


def made_from(connection: sa.Connection, model_ids: Iterable[str]) -> set[str]:
    """All that was made from these, and from that, to the end."""
    table = tables.MODEL_SOURCES
    return _closure(connection, model_ids, table.c.source_id, table.c.model_id)


def _closure(
    connection: sa.Connection, start: Iterable[str], along: sa.ColumnElement[str], to: sa.ColumnElement[str]
) -> set[str]:
    found: set[str] = set()
    edge = collections.deque([set(start)])
    while edge:
        step = edge.popleft()
        reached = {row[0] for row in rows.matching(connection, sa.select(to), along, step)} - found
        found |= reached
        if reached:
            edge.append(reached)
    return found


def releases_of(connection: sa.Connection, tenant: str, candidates: Iterable[str]) -> tuple[releases.Release, ...]:
    """Releases with one of these as their candidate, oldest first."""
    table = tables.RELEASES
    query = sa.select(table.c.id, table.c.created_us, table.c.value, table.c.schema).where(table.c.tenant == tenant)
    found = sorted(
        rows.matching(connection, query, table.c.candidate_id, candidates), key=lambda row: (row.created_us, row.id)
    )
    return tuple(rows.decoded(row, releases.Release) for row in found)
