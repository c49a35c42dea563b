"""What sessions and people are called in records: keyed hashes, so that no record says who it is about.

Called by `gateway.answering` and `gateway.voting`. A rater and the person a completion was made for hash alike: one
erasure finds both.
"""

from trimtab.core import ids


def session_hash(key: bytes, tenant: str, line: str, session: str) -> bytes:
    return ids.keyed_hash(key, tenant, line, session)


def person_hash(key: bytes, tenant: str, person: str) -> bytes:
    return ids.keyed_hash(key, "person", tenant, person)
