"""A lease has one holder, and its generation rises whenever the holding was interrupted."""

import math

import pytest
from tests.unit.ledger import making

from trimtab.core import errors, models, text
from trimtab.core import ledger as core_ledger
from trimtab.ledger import leases


def take(store: making.Ledger, holder: str, now: float, ttl_s: float = 10.0) -> tuple[bool, int, str]:
    request = core_ledger.AcquireLeaseRequest("trainer/acme/support", holder, ttl_s)
    answer = leases.acquire(store.store, request, lambda: making.at(now))
    return answer.held, answer.generation, answer.holder


def give(store: making.Ledger, holder: str) -> None:
    leases.release(store.store, core_ledger.ReleaseLeaseRequest("trainer/acme/support", holder))


def test_a_free_lease_is_granted_and_a_held_one_is_not(ledger: making.Ledger) -> None:
    assert take(ledger, "a", 0) == (True, 1, "a")
    assert take(ledger, "b", 9.9) == (False, 1, "a")


def test_renewing_keeps_the_generation(ledger: making.Ledger) -> None:
    take(ledger, "a", 0)
    assert take(ledger, "a", 9) == (True, 1, "a")
    assert take(ledger, "b", 18) == (False, 1, "a")


def test_expiry_lets_another_in_under_a_new_generation(ledger: making.Ledger) -> None:
    take(ledger, "a", 0)
    assert take(ledger, "b", 10) == (True, 2, "b")
    assert take(ledger, "a", 11) == (False, 2, "b")


def test_the_same_holder_after_expiry_has_a_new_generation(ledger: making.Ledger) -> None:
    take(ledger, "a", 0)
    assert take(ledger, "a", 10) == (True, 2, "a")


def test_a_released_lease_is_free_at_once_and_remembers_its_generation(ledger: making.Ledger) -> None:
    take(ledger, "a", 0)
    give(ledger, "b")
    assert take(ledger, "b", 1) == (False, 1, "a")
    give(ledger, "a")
    assert take(ledger, "b", 1) == (True, 2, "b")


def test_a_generation_is_never_below_one_that_has_published(ledger: making.Ledger) -> None:
    published = models.PublishedModel(
        "m" * 64, text.Context(making.TENANT, making.LINE), models.ModelKind.POLICY, making.NOW, generation=7
    )
    ledger.take(published)
    assert take(ledger, "a", 0) == (True, 8, "a")


@pytest.mark.parametrize(
    ("holder", "ttl_s", "field"), [("", 1.0, "holder"), ("a", 0.0, "ttl_s"), ("a", math.inf, "ttl_s")]
)
def test_a_lease_that_makes_no_sense_is_refused(ledger: making.Ledger, holder: str, ttl_s: float, field: str) -> None:
    with pytest.raises(errors.InvalidField, match=f"`{field}`"):
        take(ledger, holder, 0, ttl_s)
