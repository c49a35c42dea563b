"""Apps that are older or newer than the gateway, over its gRPC door: generated from another version's files."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio
import pytest
from tests.wire import versions

import trimtab_client
from trimtab.bus import topics
from trimtab.core import completions, errors, feedback
from trimtab.wire import calls

_POLICY, _FEEDBACK = "trimtabapi.policy.v1.PolicyService", "trimtabapi.feedback.v1.FeedbackService"


class App:
    """Calls the gateway with another version's messages."""

    def __init__(self, protocol: versions.Protocol, channel: grpc.aio.Channel) -> None:
        self._protocol = protocol
        self._channel = channel

    def request(self, service: str, method: str) -> Any:
        return self._protocol.message(f"{service.rpartition('.')[0]}.{method}Request")()

    async def call(self, service: str, method: str, request: Any) -> Any:
        """The response, in the app's version; what the client makes of a failure where it fails."""
        response = self._protocol.message(f"{service.rpartition('.')[0]}.{method}Response")
        stub: Any = self._channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        try:
            return await stub(request, timeout=30)
        except grpc.aio.AioRpcError as problem:
            raise calls.core_error(problem) from problem

    async def answer(self) -> Any:
        """Asked with as much as the app knows."""
        asked = self.request(_POLICY, "Complete")
        asked.model, asked.session_id = "support", "s"
        asked.messages.add(role=2).content.plain = "How?"
        if versions.NEWER in asked.DESCRIPTOR.fields_by_name:
            versions.say_more(asked)
        return await self.call(_POLICY, "Complete", asked)

    def thumb(self, completion_id: str) -> Any:
        said = self.request(_FEEDBACK, "Send")
        said.event.id, said.event.rater.id, said.event.rater.kind = "click", "ann", 1
        said.event.thumb.target.completion_id, said.event.thumb.up = completion_id, True
        said.event.occurred_at.GetCurrentTime()
        if versions.NEWER in said.DESCRIPTOR.fields_by_name:
            versions.say_more(said)
        return said


@pytest.fixture
async def channel(platform: Any) -> AsyncIterator[grpc.aio.Channel]:
    async with trimtab_client.connect(platform.grpc_address, platform.api_key) as opened:
        yield opened


@pytest.mark.parametrize("speaks", [versions.released, versions.newer])
async def test_an_app_of_another_version_asks_and_votes(
    platform: Any, channel: grpc.aio.Channel, speaks: Callable[[], versions.Protocol]
) -> None:
    app = App(speaks(), channel)
    answer = await app.answer()
    assert answer.completion.responses[0].text.plain == "Press Start."
    assert (await app.call(_FEEDBACK, "Send", app.thumb(answer.completion.id))).feedback_id == "click"
    [written] = platform.records(topics.FEEDBACK, feedback.FeedbackEvent)
    assert (written.id, written.verified, written.kind.up) == ("click", True, True)
    [asked] = [*platform.stable.asked, *platform.candidate.asked]
    assert isinstance(asked, completions.CompleteRequest)
    assert asked.messages[0].content.read() == "How?"


async def test_feedback_of_a_kind_that_only_newer_apps_know_is_refused_and_not_written(
    platform: Any, channel: grpc.aio.Channel
) -> None:
    app = App(versions.newer(), channel)
    said = app.thumb((await app.answer()).completion.id)
    said.event.future_kind = "news"
    with pytest.raises(errors.InvalidField, match=r"`event\.kind` is missing; set one of thumb"):
        await app.call(_FEEDBACK, "Send", said)
    assert platform.records(topics.FEEDBACK, feedback.FeedbackEvent) == []


async def test_a_value_that_only_newer_apps_know_is_refused_by_name(platform: Any, channel: grpc.aio.Channel) -> None:
    app = App(versions.newer(), channel)
    said = app.thumb((await app.answer()).completion.id)
    said.event.rater.kind = versions.NEWER_VALUE
    with pytest.raises(errors.InvalidField, match=r"`event\.rater\.kind` has no usable value \(9999\); set one of"):
        await app.call(_FEEDBACK, "Send", said)
    assert platform.records(topics.FEEDBACK, feedback.FeedbackEvent) == []


async def test_a_method_that_only_newer_apps_know_is_not_there(channel: grpc.aio.Channel) -> None:
    stub: Any = channel.unary_unary(f"/{_FEEDBACK}/Foresee")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub(b"", timeout=30)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
