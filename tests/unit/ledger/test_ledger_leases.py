"""A lease has one holder, and its generation rises whenever the holding was interrupted."""

import contextlib
import datetime
import math
import pathlib
import time

import pytest
from tests.unit.ledger import making

from trimtab.core import errors, models, text
from trimtab.core import ledger as core_ledger
from trimtab.ledger import leases
from trimtab.ledger.store import database, tables


def take(store: making.Ledger, holder: str, later_s: float = 0.0, ttl_s: float = 10.0) -> tuple[bool, int, str]:
    """Asks that much later than what was asked before: the clock is the database's, so every lease is made older."""
    with store.store.write() as connection:
        older = tables.LEASES.c.expires_us - int(later_s * 1_000_000)
        connection.execute(tables.LEASES.update().values(expires_us=older))
    answer = leases.acquire(store.store, core_ledger.AcquireLeaseRequest("trainer/acme/support", holder, ttl_s))
    return answer.held, answer.generation, answer.holder


def give(store: making.Ledger, holder: str) -> None:
    leases.release(store.store, core_ledger.ReleaseLeaseRequest("trainer/acme/support", holder))


def test_a_free_lease_is_granted_and_a_held_one_is_not(ledger: making.Ledger) -> None:
    assert take(ledger, "a") == (True, 1, "a")
    assert take(ledger, "b", 5) == (False, 1, "a")


def test_renewing_keeps_the_generation(ledger: making.Ledger) -> None:
    take(ledger, "a")
    assert take(ledger, "a", 5) == (True, 1, "a")
    assert take(ledger, "b", 5) == (False, 1, "a")


def test_expiry_lets_another_in_under_a_new_generation(ledger: making.Ledger) -> None:
    take(ledger, "a")
    assert take(ledger, "b", 10) == (True, 2, "b")
    assert take(ledger, "a", 1) == (False, 2, "b")


def test_the_same_holder_after_expiry_has_a_new_generation(ledger: making.Ledger) -> None:
    take(ledger, "a")
    assert take(ledger, "a", 10) == (True, 2, "a")


def test_a_released_lease_is_free_at_once_and_remembers_its_generation(ledger: making.Ledger) -> None:
    take(ledger, "a")
    give(ledger, "b")
    assert take(ledger, "b", 1) == (False, 1, "a")
    give(ledger, "a")
    assert take(ledger, "b", 1) == (True, 2, "b")


def test_a_generation_is_never_below_one_that_has_published(ledger: making.Ledger) -> None:
    published = models.PublishedModel(
        "m" * 64, text.Context(making.TENANT, making.LINE), models.ModelKind.POLICY, making.NOW, generation=7
    )
    ledger.take(published)
    assert take(ledger, "a") == (True, 8, "a")


@pytest.mark.parametrize(
    ("holder", "ttl_s", "field"), [("", 1.0, "holder"), ("a", 0.0, "ttl_s"), ("a", math.inf, "ttl_s")]
)
def test_a_lease_that_makes_no_sense_is_refused(ledger: making.Ledger, holder: str, ttl_s: float, field: str) -> None:
    with pytest.raises(errors.InvalidField, match=f"`{field}`"):
        take(ledger, holder, 0, ttl_s)


@pytest.mark.parametrize("jump", [datetime.timedelta(hours=1), datetime.timedelta(hours=-1)])
def test_a_machines_clock_that_is_set_neither_ends_a_lease_nor_prolongs_it(
    tmp_path: pathlib.Path, jump: datetime.timedelta
) -> None:
    wall = [making.NOW]
    with contextlib.closing(database.Database(f"sqlite:///{tmp_path / 'leases.db'}", now=lambda: wall[0])) as store:

        def ask(holder: str, ttl_s: float) -> tuple[bool, int]:
            answer = leases.acquire(store, core_ledger.AcquireLeaseRequest("n", holder, ttl_s))
            return answer.held, answer.generation

        assert ask("a", 60.0) == (True, 1)
        wall[0] += jump
        assert ask("b", 60.0) == (False, 1)
        assert ask("a", 0.01) == (True, 1)
        wall[0] += jump
        time.sleep(0.02)
        assert ask("b", 60.0) == (True, 2)
