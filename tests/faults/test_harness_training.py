"""What training and publishing promise holds under faults, and a design that does not hold it is caught: in small."""

import pytest
from tests.faults.harness import training, world

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", training.FAULTS)
def test_a_fault_breaks_nothing_that_is_promised(number: int) -> None:
    row = training.play(number, "sqlite", size=world.SMALLEST, seed=1)
    assert row.sentences == [], f"seed {row.seed}, kept in {row.folder}"
    assert sum(one.of for one in row.checked) > 0


def test_a_wrong_design_is_caught() -> None:
    """The quickest of them; `make faults` has all."""
    caught = training.catch("unfenced", world.SMALLEST, seed=1)
    assert caught.count > 0, f"seed {caught.row.seed}: {caught.row.sentences}"
