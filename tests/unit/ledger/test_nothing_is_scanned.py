"""What a batch costs, and what is asked every few seconds, does not grow with all that was ever said."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from tests.unit.ledger import making

from trimtab.core import ledger
from trimtab.ledger import counting, evidence, scores, tracing, unjoinable

# They have a row for each answer, vote or example.
GROW = (
    "completions",
    "feedback",
    "feedback_targets",
    "examples",
    "outbox",
    "exposures",
    "scores",
    "memberships",
    "uses",
)
# The outbox's own index holds what is not published yet, that of what waits nothing else: these are read whole.
SHORT = ("SCAN outbox USING INDEX outbox_unpublished", "SCAN feedback USING INDEX feedback_waiting")


@contextlib.contextmanager
def statements() -> Iterator[dict[str, Any]]:
    """Each that any connection runs meanwhile, with parameters."""
    seen: dict[str, Any] = {}

    def see(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        seen[statement] = parameters[0] if many else parameters

    sa.event.listen(sa.Engine, "before_cursor_execute", see)
    try:
        yield seen
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", see)


def scans(store: making.Ledger, seen: dict[str, Any]) -> list[tuple[str, str]]:
    """(statement, step of SQLite's plan) of what reads a table that grows from one end to the other."""
    found = []
    with store.store.read() as connection:
        for statement, parameters in seen.items():
            if statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT")):
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", tuple(parameters)).all()
                steps = [str(row[3]) for row in plan if str(row[3]).split()[0] == "SCAN"]
                found += [(statement, step) for step in steps if step.split()[1] in GROW and step not in SHORT]
    return found


@pytest.fixture
def on_sqlite(tmp_path: pathlib.Path) -> Iterator[making.Ledger]:
    with making.ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as one:
        yield one


def test_a_batch_reads_what_it_is_about(on_sqlite: making.Ledger) -> None:
    first, second = (making.completion("s", number, exposure=making.exposed()) for number in range(2))
    said = [
        making.thumb(first, "up"),
        making.thumb(first, "again", supersedes=["up"]),
        making.comparison(making.ref(first), making.ref(second), first),
        making.thumb(making.completion("late"), "early"),
    ]
    on_sqlite.take(said[0])
    with statements() as seen:
        on_sqlite.take(first, second, *said)
        on_sqlite.take(making.completion("late"))
    assert len(seen) > 20
    assert scans(on_sqlite, seen) == []


def test_what_is_asked_every_few_seconds_reads_what_it_is_about(on_sqlite: making.Ledger) -> None:
    answer = making.completion(exposure=making.exposed())
    on_sqlite.take(answer, making.thumb(answer, "up"))
    with statements() as seen:
        evidence.evidence(on_sqlite.store, ledger.EvidenceRequest(making.TENANT, "rel", 50.0, 2.0), making.at(100.0))
        scores.unscored(on_sqlite.store, ledger.UnscoredRequest(making.TENANT, "rel", 50))
        counting.counts(on_sqlite.store, ledger.CountsRequest(making.TENANT, making.LINE), 1)
        tracing.trace(on_sqlite.store, ledger.TraceRequest(making.TENANT, "up"))
        with on_sqlite.store.read() as connection:
            unjoinable.count(connection, 1)
    assert len(seen) > 12
    assert scans(on_sqlite, seen) == []


def test_a_scan_is_seen(on_sqlite: making.Ledger) -> None:
    with statements() as seen, on_sqlite.store.read() as connection:
        connection.execute(sa.text("SELECT * FROM exposures WHERE session = 'x'")).all()
    assert [step for _, step in scans(on_sqlite, seen)] == ["SCAN exposures"]
