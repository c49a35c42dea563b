"""What a service raises is what its caller catches: the same class, the same sentence, over real gRPC."""

import json

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

import trimtab_client
from trimtab.core import completions, errors, scoring
from trimtab.rpc import errors as rpc_errors
from trimtab.wire import calls
from trimtabapi.policy.v1 import policy_service_pb2, policy_service_pb2_grpc
from trimtabapi.reward.v1 import reward_service_pb2, reward_service_pb2_grpc

SCORE = "/trimtabapi.reward.v1.RewardService/Score"
EVERY = {
    "InvalidField": errors.InvalidField("items[0].response", "is leer — ⏰", "say something"),
    "UnsupportedParameter": errors.UnsupportedParameter("tools", "this engine has none"),
    "PromptTooLong": errors.PromptTooLong(900, 512),
    "ForgedCompletionId": errors.ForgedCompletionId("chatcmpl-x"),
    "MalformedRecord": errors.MalformedRecord("It cannot be read."),
    "ForeignTenant": errors.ForeignTenant(),
    "NotAllowed": errors.NotAllowed("Only an operator adopts a policy."),
    "NotAuthenticated": errors.NotAuthenticated(),
    "UnknownModel": errors.UnknownModel("support2", ("support",)),
    "NotFound": errors.NotFound("run", "r1"),
    "ConflictingFeedback": errors.ConflictingFeedback("fb-1"),
    "SealedText": errors.SealedText("key-1"),
    "WrongState": errors.WrongState("The release is paused; resume it first."),
    "StaleGeneration": errors.StaleGeneration(3, 4),
    "LogUnavailable": errors.LogUnavailable("The log did not take the record; send it again."),
    "ServiceUnavailable": errors.ServiceUnavailable("The policy is starting; try again."),
    "Overloaded": errors.Overloaded("The queue is full; try again."),
    "DeadlineExceeded": errors.DeadlineExceeded("The deadline passed."),
    "NotBuiltYet": errors.NotBuiltYet("Erase"),
    "ArtifactCorrupt": errors.ArtifactCorrupt("'w' is broken."),
    "InternalFault": errors.InternalFault("Score"),
}


class Raising(reward_service_pb2_grpc.RewardServiceServicer):
    """Score raises the error that the model names; ListRewardModels is not written."""

    async def Score(self, request, context):
        if request.model == "bug":
            raise KeyError("private words")
        if request.model == "late":
            raise WindowClosed("The window has closed; wait for the next.")
        if request.model == "long":
            raise errors.InvalidField("items", "é" * 5000, "shorten it")
        raise EVERY[request.model]


class StreamRaising(policy_service_pb2_grpc.PolicyServiceServicer):
    """Streams one event, then raises."""

    async def StreamComplete(self, request, context):
        yield policy_service_pb2.StreamCompleteResponse(completion_id="c", delta="hi")
        raise EVERY[request.model]


class WindowClosed(errors.WrongState):
    """A service's own refinement of a core error."""


@pytest.fixture
async def served(serve):
    return await serve(reward_service_pb2_grpc.add_RewardServiceServicer_to_server, Raising())


@pytest.fixture
def channel(served):
    return served.channel


async def _caught(channel, model):
    with pytest.raises(errors.TrimtabError) as caught:
        await calls.RewardCalls(channel).score(scoring.ScoreRequest(model, ()), timeout_s=10)
    return caught.value


async def _rich(channel, model):
    """Code, status and details by class as any gRPC client sees them."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await reward_service_pb2_grpc.RewardServiceStub(channel).Score(reward_service_pb2.ScoreRequest(model=model))
    raw = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(raw)
    details = {}
    for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
        for part in status.details:
            found = kind()
            if part.Unpack(found):
                details[kind.__name__] = found
    return caught.value, status, details


def test_the_table_and_the_clients_table_are_inverses():
    assert {kind.__name__ for kind in rpc_errors.TABLE} == set(EVERY)
    assert {reason for _, reason in rpc_errors.TABLE.values()} == set(trimtab_client.errors.BY_REASON)
    for kind, (_, reason) in rpc_errors.TABLE.items():
        assert trimtab_client.errors.BY_REASON[reason].__name__ == kind.__name__
        assert type(errors.restore(reason, "x", {})) is kind


def test_every_error_has_a_status():
    assert set(rpc_errors.TABLE) == set(errors.TrimtabError.__subclasses__())


@pytest.mark.parametrize("name", sorted(EVERY))
async def test_an_error_comes_back_as_it_was_raised(channel, name):
    caught = await _caught(channel, name)
    assert type(caught) is type(EVERY[name])
    assert str(caught) == str(EVERY[name])
    assert caught.details == EVERY[name].details


@pytest.mark.parametrize("name", sorted(EVERY))
async def test_any_grpc_client_sees_status_reason_and_domain(channel, name):
    error, status, details = await _rich(channel, name)
    expected, reason = rpc_errors.TABLE[type(EVERY[name])]
    assert error.code() is expected
    assert error.details() == status.message == str(EVERY[name])
    assert (details["ErrorInfo"].reason, details["ErrorInfo"].domain) == (reason, "trimtab")
    assert ("RetryInfo" in details) == (name in ("LogUnavailable", "ServiceUnavailable", "Overloaded"))
    has_field = "field" in EVERY[name].details and expected is grpc.StatusCode.INVALID_ARGUMENT
    assert ("BadRequest" in details) == has_field


async def test_a_field_violation_names_the_field(channel):
    _, _, details = await _rich(channel, "InvalidField")
    (violation,) = details["BadRequest"].field_violations
    assert violation.field == "items[0].response"
    assert "say something" in violation.description


async def test_a_refinement_travels_as_its_parent(channel):
    caught = await _caught(channel, "late")
    assert type(caught) is errors.WrongState
    assert str(caught) == "The window has closed; wait for the next."


async def test_an_endless_sentence_still_arrives_shortened(channel):
    caught = await _caught(channel, "long")
    assert type(caught) is errors.InvalidField
    assert len(str(caught).encode()) <= rpc_errors.MAX_SENTENCE_BYTES
    assert str(caught).endswith("…")


async def test_an_unknown_exception_is_internal_and_tells_the_caller_nothing(channel, capsys):
    caught = await _caught(channel, "bug")
    assert type(caught) is errors.InternalFault
    assert "private words" not in str(caught)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (line,) = [line for line in lines if line["event"] == "call failed inside"]
    assert line["method"] == SCORE
    assert line["exception"][0]["exc_type"] == "KeyError"


async def test_a_method_that_comes_later_says_so_in_a_sentence(channel):
    with pytest.raises(errors.NotBuiltYet, match="ListRewardModels is part of the interface and not built yet"):
        await calls.RewardCalls(channel).list_reward_models()


async def test_a_service_that_is_not_there_says_so(channel):
    with pytest.raises(errors.NotBuiltYet):
        await calls.PolicyCalls(channel).describe()


async def test_an_error_within_a_stream_comes_back_after_its_events(serve):
    channel = (await serve(policy_service_pb2_grpc.add_PolicyServiceServicer_to_server, StreamRaising())).channel
    seen = []
    with pytest.raises(errors.Overloaded, match="queue is full"):
        async for event in calls.PolicyCalls(channel).stream_complete(completions.CompleteRequest((), "Overloaded")):
            seen.append(event.delta)
    assert seen == ["hi"]


async def test_bytes_that_are_no_message_are_refused_in_a_sentence(channel):
    call = channel.unary_unary(SCORE, request_serializer=bytes, response_deserializer=bytes)
    for poison in (b"\xff\xff\xff", b"\x0a\x02\xff\xfe"):  # no protobuf; a string that is no UTF-8
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(poison)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "UTF-8" in caught.value.details()


async def test_nobody_there_is_unavailable(unused_tcp_port):
    async with trimtab_client.connect(f"127.0.0.1:{unused_tcp_port}", "token") as channel:
        caught = await _caught(channel, "x")
    assert type(caught) is errors.ServiceUnavailable
    assert "cannot be reached" in str(caught)


async def test_a_passed_deadline_is_named(unused_tcp_port):
    async with trimtab_client.connect(f"127.0.0.1:{unused_tcp_port}", "token") as channel:
        with pytest.raises(errors.DeadlineExceeded):
            await calls.RewardCalls(channel).score(scoring.ScoreRequest("x", ()), timeout_s=0.0)


@pytest.mark.parametrize("token", ["", "Bearer ", "Bearer wrong", "wrong"])
async def test_a_caller_without_the_token_is_not_authenticated(served, token):
    metadata = (("authorization", token),) if token else ()
    async with grpc.aio.insecure_channel(served.address) as bare:
        stub = reward_service_pb2_grpc.RewardServiceStub(bare)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Score(reward_service_pb2.ScoreRequest(model="NotFound"), metadata=metadata)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert trimtab_client.from_rpc(caught.value).reason == "NOT_AUTHENTICATED"
