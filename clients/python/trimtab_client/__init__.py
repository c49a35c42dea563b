"""Client of the Trimtab services: channels that are safe to use, and errors with names.

    channel = trimtab_client.connect("localhost:7000", token=api_key)
    stub = policy_service_pb2_grpc.PolicyServiceStub(channel)

The messages and stubs are in `trimtabapi`.
"""

from trimtab_client import errors
from trimtab_client.channel import connect
from trimtab_client.errors import TrimtabError, from_rpc

__all__ = ["TrimtabError", "connect", "errors", "from_rpc"]
