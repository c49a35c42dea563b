"""A ledger on a database of its own."""

import pathlib
from collections.abc import Iterator

import pytest
from tests.unit.ledger import making


@pytest.fixture
def ledger(tmp_path: pathlib.Path) -> Iterator[making.Ledger]:
    with making.ledger(tmp_path / "ledger.db") as made:
        yield made
