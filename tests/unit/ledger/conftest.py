"""A ledger on a database of its own, of either kind."""

from collections.abc import Iterator

import pytest
from tests.postgres.stores import Stores
from tests.unit.ledger import making


@pytest.fixture
def ledger(stores: Stores) -> Iterator[making.Ledger]:
    with making.ledger(stores.url()) as made:
        yield made
