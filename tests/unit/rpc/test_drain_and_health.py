"""Shutdown loses no call: health flips first, calls in flight end, and clients go elsewhere."""

import asyncio
import contextlib
import time

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests import timing
from tests.unit.rpc import toy

import trimtab_client
from trimtab.core import errors, scoring
from trimtab.rpc import process
from trimtab.wire import calls
from trimtabapi.reward.v1 import reward_service_pb2_grpc

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
ASK = scoring.ScoreRequest("m", ())


async def _health(address: str, service: str = "") -> "health_pb2.HealthCheckResponse.ServingStatus":
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timing.PATIENCE_S)).status


async def test_health_needs_no_token_and_names_the_service(served):
    assert await _health(served.address) == SERVING
    assert await _health(served.address, toy.SERVICE) == SERVING


async def test_it_serves_only_after_every_gate_has_opened(made):
    first, second = made.add_readiness("models"), made.add_readiness("log")
    async with made.serving() as address, grpc.aio.insecure_channel(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == NOT_SERVING
        await asyncio.to_thread(first)
        assert await _health(address) == NOT_SERVING
        await asyncio.to_thread(second)
        assert (await watch.read()).status == SERVING
        watch.cancel()


async def test_a_process_that_is_not_ready_is_alive_all_the_same(made):
    opened = made.add_readiness("log")
    async with made.serving() as address:
        assert await _health(address) == NOT_SERVING
        assert await _health(address, process.LIVE) == SERVING
        opened()


async def test_a_gate_that_opened_before_the_start_holds_nothing_up(made):
    made.add_readiness("models")()
    async with made.serving() as address, grpc.aio.insecure_channel(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        statuses = {(await watch.read()).status}
        while SERVING not in statuses:
            statuses.add((await watch.read()).status)
        watch.cancel()


async def test_a_drain_says_not_serving_and_finishes_the_calls_in_flight(made, servicer):
    serving = contextlib.AsyncExitStack()
    address = await serving.enter_async_context(made.serving())
    async with (
        trimtab_client.connect(address, made.secrets.internal_token) as channel,
        grpc.aio.insecure_channel(address) as observer,
    ):
        watch = health_pb2_grpc.HealthStub(observer).Watch(health_pb2.HealthCheckRequest())
        reward = calls.RewardCalls(channel)
        waiting = asyncio.create_task(reward.score(scoring.ScoreRequest("wait", ())))
        await servicer.entered.wait()
        stopping = asyncio.create_task(serving.aclose())
        while (await watch.read()).status != NOT_SERVING:
            pass
        watch.cancel()
        servicer.release.set()
        assert (await waiting).model_id == "wait"
        await stopping
        with pytest.raises(errors.ServiceUnavailable):
            await reward.score(ASK, timeout_s=timing.PATIENCE_S)


async def test_a_call_that_outlasts_the_drain_is_told_to_go_elsewhere(made, servicer):
    made.settings = made.settings.model_copy(update={"drain_s": 0.1})
    serving = contextlib.AsyncExitStack()
    address = await serving.enter_async_context(made.serving())
    async with trimtab_client.connect(address, made.secrets.internal_token) as channel:
        waiting = asyncio.create_task(
            calls.RewardCalls(channel).score(scoring.ScoreRequest("wait", ()), timeout_s=timing.PATIENCE_S)
        )
        await servicer.entered.wait()
        await serving.aclose()
        with pytest.raises(errors.ServiceUnavailable):
            await waiting


async def test_watching_clients_do_not_hold_the_drain_up(made):
    serving = contextlib.AsyncExitStack()
    address = await serving.enter_async_context(made.serving())
    async with trimtab_client.connect(address, made.secrets.internal_token) as channel:
        await calls.RewardCalls(channel).score(ASK)
        started = time.monotonic()
        await serving.aclose()
        assert time.monotonic() - started < made.settings.drain_s / 2


async def test_with_two_replicas_a_drain_loses_no_call(made, config):
    other = process.Process("other", config)
    register = reward_service_pb2_grpc.add_RewardServiceServicer_to_server
    other.add_service(lambda server: register(toy.ToyReward(), server), toy.SERVICE)
    first = contextlib.AsyncExitStack()
    address = await first.enter_async_context(made.serving())
    async with (
        other.serving() as second,
        trimtab_client.connect(f"ipv4:{address},{second}", made.secrets.internal_token) as channel,
    ):
        reward = calls.RewardCalls(channel)
        stopping = None
        answered = 0
        while stopping is None or not stopping.done():
            answers = await asyncio.gather(*(reward.score(ASK, timeout_s=timing.PATIENCE_S) for _ in range(8)))
            answered += len(answers)
            if answered >= 80 and stopping is None:
                stopping = asyncio.create_task(first.aclose())
        assert answered > 80


async def test_reflection_is_off_until_it_is_asked_for(made, config):
    async def services(address: str) -> set[str]:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            async for answer in stub.ServerReflectionInfo(iter([request])):
                return {service.name for service in answer.list_services_response.service}
        return set()

    async with made.serving() as address:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await services(address)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    open_process = process.Process("toy", config.model_copy(update={"reflection": True}))
    register = reward_service_pb2_grpc.add_RewardServiceServicer_to_server
    open_process.add_service(lambda server: register(toy.ToyReward(), server), toy.SERVICE)
    async with open_process.serving() as address:
        assert toy.SERVICE in await services(address)
