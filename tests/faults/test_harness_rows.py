"""What ingestion promises holds under faults, and a design that does not hold it is caught: `make faults`, in small."""

from collections.abc import Iterator

import pytest
from tests.faults.harness import app, mutants, world

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench() -> Iterator[app.Bench]:
    with app.Bench(world.SMALLEST, seed=1) as made:
        yield made


ROWS = [*((number, log) for number in (1, 3, 4, 6) for log in app.LOGS), *((number, "sqlite") for number in (7, 8, 9))]


@pytest.mark.parametrize(("number", "log"), ROWS)
def test_a_fault_loses_nothing_that_was_acknowledged_and_counts_nothing_twice(
    bench: app.Bench, number: int, log: str
) -> None:
    row = bench.row(number, log)
    assert (row.problems, row.verdict.sentences) == ((), []), f"seed {row.seed}, kept in {row.folder}"
    assert row.verdict.acknowledged == row.verdict.sent >= world.SMALLEST.votes


@pytest.mark.parametrize("name", mutants.ALL)
def test_a_wrong_design_is_caught(bench: app.Bench, name: str) -> None:
    caught = bench.mutant(name)
    assert caught.count > 0, f"seed {caught.row.seed}: {caught.row.problems} {caught.row.verdict.sentences}"
