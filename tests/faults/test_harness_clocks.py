"""A clock of the harness that is set takes its process's time along, and no deadline of a call."""

import asyncio
import pathlib
import subprocess
import sys
import time

import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tests import timing
from tests.faults.harness import clocks

CALLS = """
import asyncio, pathlib, sys
from tests.faults.harness import clocks
clocks.turn(pathlib.Path(sys.argv[1]))
import grpc.aio, time
from grpc_health.v1 import health_pb2, health_pb2_grpc
from trimtab.core import clock

async def call():
    async with grpc.aio.insecure_channel(sys.argv[2]) as channel:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=float(sys.argv[3]))

asyncio.run(call())
print(time.time(), clock.utc_now().timestamp())
"""


@pytest.mark.parametrize("seconds", [-3600.0, 3600.0])
async def test_calls_have_their_deadline_whatever_the_clock_says(tmp_path: pathlib.Path, seconds: float) -> None:
    file = tmp_path / "clock"
    clocks.put(file, seconds)
    server = grpc.aio.server()
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", CALLS, str(file), f"127.0.0.1:{port}", str(timing.PATIENCE_S)],
        capture_output=True,
        text=True,
        check=False,
    )
    await server.stop(None)
    assert ended.returncode == 0, ended.stderr
    assert all(abs(float(said) - time.time() - seconds) < timing.PATIENCE_S for said in ended.stdout.split())
