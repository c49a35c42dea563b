"""What training and publishing promise holds under faults, and a design that does not hold it is caught: in small."""

import pytest
from tests.faults.harness import training, world, wrong_training

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("number", "store"), [(2, "sqlite"), (10, "sqlite"), (11, "sqlite"), (12, "sqlite"), (18, "sqlite")]
)
def test_a_fault_breaks_nothing_that_is_promised(number: int, store: str) -> None:
    row = training.play(number, store, size=world.SMALLEST, seed=1)
    assert row.sentences == [], f"seed {row.seed}, kept in {row.folder}"
    assert sum(one.of for one in row.checked) > 0


@pytest.mark.parametrize("name", wrong_training.ALL)
def test_a_wrong_design_is_caught(name: str) -> None:
    caught = training.catch(name, world.SMALLEST, seed=1)
    assert caught.count > 0, f"seed {caught.row.seed}: {caught.row.sentences}"
