"""Who is calling: the API key of a request.

Called by the doors (`gateway.routes`; for gRPC `rpc.interceptors`, which hands in the bare key). Only the key's sha256
is known here.
"""

from trimtab.core import errors
from trimtab.rpc import secrets


def tenant_of(known: secrets.Secrets, authorization: str) -> str:
    """The tenant of `Authorization: Bearer <API key>`; NotAuthenticated when there is none."""
    scheme, _, api_key = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise errors.NotAuthenticated()
    return tenant_of_key(known, api_key.strip())


def tenant_of_key(known: secrets.Secrets, api_key: str) -> str:
    entry = known.find(api_key)
    if entry is None:
        raise errors.NotAuthenticated()
    return entry.tenant
