"""A data set's members, of which there may be as many as the line has examples."""

import tracemalloc
from collections.abc import Iterator

import sqlalchemy as sa
from tests.unit.ledger import making

from trimtab.core import models, text
from trimtab.ledger.store import lineage, tables

DATASET = models.PublishedModel(
    "data", text.Context(making.TENANT, making.LINE), models.ModelKind.DATASET, making.NOW, method="cut"
)
MIB = 2**20


def members(count: int, disposition: str = "trained") -> Iterator[lineage.Member]:
    return (lineage.Member(f"example-{number:06}", disposition) for number in range(count))


def stored(ledger: making.Ledger) -> dict[str, str]:
    table = tables.MEMBERSHIPS
    with ledger.store.read() as connection:
        rows = connection.execute(sa.select(table.c.example_id, table.c.disposition)).all()
    assert len(rows) == len({row.example_id for row in rows})
    return {row.example_id: row.disposition for row in rows}


def test_the_last_word_on_an_example_counts_however_far_apart_they_stand(ledger: making.Ledger) -> None:
    def said() -> Iterator[lineage.Member]:
        yield from members(4500)
        yield lineage.Member("example-000001", "rejected", "why")

    with ledger.store.write() as connection:
        lineage.add_members(connection, DATASET, said())
        lineage.add_members(connection, DATASET, said())  # told again, it is the same
    assert len(stored(ledger)) == 4500
    assert stored(ledger)["example-000001"] == "rejected"


def test_they_are_never_held_all_at_once(ledger: making.Ledger) -> None:
    def peak(count: int) -> int:
        with ledger.store.write() as connection:
            tracemalloc.start()
            try:
                lineage.add_members(connection, DATASET, members(count))
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    few = peak(4000)
    assert peak(16_000) < few + MIB
