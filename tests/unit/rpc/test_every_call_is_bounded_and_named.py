"""A call without a deadline gets one, a caller has a name, and what a servicer forgets is said."""

import asyncio
import contextlib

import grpc
import grpc.aio
import pytest

import trimtab_client
from trimtab.core import completions, errors
from trimtab.rpc import interceptors
from trimtab.wire import calls
from trimtabapi.policy.v1 import policy_service_pb2, policy_service_pb2_grpc


class Slow(policy_service_pb2_grpc.PolicyServiceServicer):
    """Describe and StreamComplete never end; Complete says who asked."""

    async def Describe(self, request, context):
        await asyncio.Event().wait()

    async def StreamComplete(self, request, context):
        yield policy_service_pb2.StreamCompleteResponse(completion_id=interceptors.caller())
        await asyncio.Event().wait()

    async def Complete(self, request, context):
        raise errors.NotAllowed(f"Not for {interceptors.caller()}.")


def _tenant(token: str) -> str:
    if not token.startswith("key-of-"):
        raise errors.NotAuthenticated()
    return token.removeprefix("key-of-")


@pytest.fixture
async def address():
    interceptor = interceptors.CallInterceptor(_tenant, unary_deadline_s=0.05, stream_deadline_s=0.05)
    server = grpc.aio.server(interceptors=[interceptor])
    policy_service_pb2_grpc.add_PolicyServiceServicer_to_server(Slow(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@contextlib.asynccontextmanager
async def _stub(address):
    async with trimtab_client.connect(address, "key-of-acme") as channel:
        yield policy_service_pb2_grpc.PolicyServiceStub(channel)


async def test_a_call_without_a_deadline_is_ended_after_the_default(address):
    async with _stub(address) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Describe(policy_service_pb2.DescribeRequest())
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "send a deadline" in str(trimtab_client.from_rpc(caught.value))


async def test_a_stream_without_a_deadline_is_ended_after_the_default(address):
    seen = []
    async with _stub(address) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for event in stub.StreamComplete(policy_service_pb2.CompleteRequest()):
                seen.append(event.completion_id)
    assert seen == ["acme"]
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_callers_own_deadline_stands(address):
    async with _stub(address) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Describe(policy_service_pb2.DescribeRequest(), timeout=0.4)
    assert "send a deadline" not in str(trimtab_client.from_rpc(caught.value))


async def test_two_callers_at_once_keep_their_names(address):
    async def name(tenant):
        async with trimtab_client.connect(address, f"key-of-{tenant}") as channel:
            with pytest.raises(errors.NotAllowed) as caught:
                await calls.PolicyCalls(channel).complete(completions.CompleteRequest(()), timeout_s=10)
            return str(caught.value)

    assert await asyncio.gather(*(name(f"t{n}") for n in range(5))) == [f"Not for t{n}." for n in range(5)]


async def test_who_may_call_is_the_process_own_decision(address):
    async with trimtab_client.connect(address, "stolen") as channel:
        with pytest.raises(errors.NotAuthenticated):
            await calls.PolicyCalls(channel).describe()
