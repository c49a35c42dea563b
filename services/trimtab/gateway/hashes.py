"""What sessions and people are called in records: keyed hashes, so that no record says who it is about.

Called by `gateway.answering` and `gateway.voting`. A rater and the person a completion was made for hash alike: one
erasure finds both.
"""

import ipaddress

from trimtab.core import errors, ids

_NETWORK_BITS = {4: 24, 6: 48}


def session_hash(key: bytes, tenant: str, line: str, session: str) -> bytes:
    return ids.keyed_hash(key, tenant, line, session)


def person_hash(key: bytes, tenant: str, person: str) -> bytes:
    return ids.keyed_hash(key, "person", tenant, person)


def network_hash(key: bytes, tenant: str, address: str) -> bytes:
    """Of the /24 (IPv4) or /48 (IPv6) that an address or a narrower prefix lies in; a wider prefix is one network.

    InvalidField for what is neither; what was given is in no message.
    """
    try:
        given = ipaddress.ip_interface(address).network
    except ValueError:
        remedy = "send an IPv4 or IPv6 address or a prefix (192.0.2.7, 2001:db8::/48), or leave it out"
        raise errors.InvalidField("rater.network", "is no IP address", remedy) from None
    mapped = given.network_address.ipv4_mapped if isinstance(given, ipaddress.IPv6Network) else None
    if mapped is not None and given.prefixlen >= 96:  # an IPv4 address as a dual-stack socket spells it
        given = ipaddress.IPv4Network((mapped, given.prefixlen - 96))
    bits = min(given.prefixlen, _NETWORK_BITS[given.version])
    return ids.keyed_hash(key, "network", tenant, str(given.supernet(new_prefix=bits)))
