"""A real PolicyService process that only describes itself: what the rollout controller needs of a policy.

    python describing_policy.py FOLDER MODEL_ID ADDRESS

FOLDER/MODEL_ID.json says which digest it claims to have loaded, or null: then it ends at once, as one that cannot
load would. It imports the generated API only, so that many of them start quickly.
"""

import asyncio
import json
import pathlib
import signal
import sys
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from trimtabapi.policy.v1 import policy_service_pb2 as pb
from trimtabapi.policy.v1 import policy_service_pb2_grpc


class Servicer(policy_service_pb2_grpc.PolicyServiceServicer):
    def __init__(self, described: pb.DescribeResponse) -> None:
        self._described = described

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:
        return self._described


async def started(model_id: str, digest: str, address: str) -> grpc.aio.Server:
    server = grpc.aio.server()
    described = pb.DescribeResponse(policy_id=model_id, loaded_digest=digest, engine="none", context_tokens=1)
    policy_service_pb2_grpc.add_PolicyServiceServicer_to_server(Servicer(described), server)
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    server.add_insecure_port(address)
    await server.start()
    return server


async def serve(model_id: str, digest: str, address: str) -> None:
    server = await started(model_id, digest, address)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(1.0)


if __name__ == "__main__":
    folder, model_id, address = sys.argv[1:]
    digest = json.loads((pathlib.Path(folder) / f"{model_id}.json").read_text())
    if digest is None:
        sys.exit(3)
    asyncio.run(serve(model_id, digest, address))
