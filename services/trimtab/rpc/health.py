"""Asks another process whether it serves. Used by the command line while it waits for a platform to start."""

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc


async def is_serving(address: str, *, timeout_s: float) -> bool:
    """Whether the process at host:port says SERVING. One that cannot be reached does not serve."""
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=""), timeout=timeout_s
            )
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
