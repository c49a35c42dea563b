"""A network is a /24 or a /48, and its name a keyed hash of the tenant's."""

import pytest

from trimtab.core import errors, ids
from trimtab.gateway import hashes

KEY = b"k" * 32


def named(address: str, tenant: str = "acme") -> bytes:
    return hashes.network_hash(KEY, tenant, address)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.0.2.7", "192.0.2.250"),
        ("192.0.2.7", "192.0.2.0/24"),
        ("192.0.2.7", "192.0.2.128/25"),
        ("192.0.2.7", "::ffff:192.0.2.9"),
        ("2001:db8:7::1", "2001:0DB8:0007:ffff::2"),
        ("2001:db8:7::1", "2001:db8:7::/48"),
        ("2001:db8:7::1", "2001:db8:7:8::/64"),
        ("10.0.0.0/8", "10.9.9.9/8"),
    ],
)
def test_the_same_network(one: str, other: str) -> None:
    assert named(one) == named(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("192.0.2.7", "192.0.3.7"), ("2001:db8:7::1", "2001:db8:8::1"), ("10.0.0.0/8", "10.0.0.0"), ("::/0", "0.0.0.0/0")],
)
def test_another_network(one: str, other: str) -> None:
    assert named(one) != named(other)


def test_it_is_keyed_and_the_tenant_s_own() -> None:
    assert named("192.0.2.7") == ids.keyed_hash(KEY, "network", "acme", "192.0.2.0/24")
    assert named("192.0.2.7") != named("192.0.2.7", "other")
    assert named("192.0.2.7") != hashes.network_hash(b"o" * 32, "acme", "192.0.2.7")
    assert named("192.0.2.0") != hashes.person_hash(KEY, "acme", "192.0.2.0/24")


@pytest.mark.parametrize(
    "given",
    ["home", "198.51.100", "192.0.2.7:80", "192.0.2.7, 10.0.0.1", "300.1.1.1", "192.0.2.7/33", "[::1]", "7" * 99],
)
def test_what_is_no_address_is_refused_without_repeating_it(given: str) -> None:
    with pytest.raises(errors.InvalidField, match=r"`rater.network` is no IP address.*192\.0\.2\.7") as refused:
        named(given)
    assert given not in str(refused.value)
