"""The client of today and a platform that is older or newer: real gRPC, and a gateway that speaks another version."""

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from tests.client import gateway
from tests.wire import versions

import trimtab_client

PROTOCOLS = {"released": versions.released, "newer": versions.newer}
_POLICY, _FEEDBACK = "trimtabapi.policy.v1", "trimtabapi.feedback.v1"


class Gateway:
    """Answers as somebody does who generated the service from another version's files. `taken`: what it was sent."""

    def __init__(self, protocol: versions.Protocol) -> None:
        self._protocol = protocol
        self.taken: list[Any] = []

    def register(self, server: grpc.aio.Server) -> None:
        policy = {
            "Complete": grpc.unary_unary_rpc_method_handler(self._complete, *self._coders(_POLICY, "Complete")),
            "StreamComplete": grpc.unary_stream_rpc_method_handler(
                self._stream, *self._coders(_POLICY, "Complete", "StreamComplete")
            ),
        }
        sending = grpc.unary_unary_rpc_method_handler(self._send, *self._coders(_FEEDBACK, "Send"))
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(f"{_POLICY}.PolicyService", policy),
                grpc.method_handlers_generic_handler(f"{_FEEDBACK}.FeedbackService", {"Send": sending}),
            )
        )

    def _coders(self, package: str, asked: str, answered: str = "") -> tuple[Any, Any]:
        request = self._protocol.message(f"{package}.{asked}Request")
        response = self._protocol.message(f"{package}.{answered or asked}Response")
        return request.FromString, response.SerializeToString

    async def _complete(self, request: Any, context: Any) -> Any:
        self.taken.append(request)
        answer = self._protocol.message(f"{_POLICY}.CompleteResponse")()
        answer.completion.id, answer.completion.policy_id = "chatcmpl-1", gateway.POLICY_ID
        made = answer.completion.responses.add(finish_reason=self._finish())
        made.text.plain = "".join(gateway.WORDS)
        return self._more(answer)

    async def _stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for word in gateway.WORDS:
            event = self._protocol.message(f"{_POLICY}.StreamCompleteResponse")(completion_id="chatcmpl-1", delta=word)
            if word == gateway.WORDS[-1]:
                event.finish_reason = self._finish()
                event.usage.completion_tokens = len(gateway.WORDS)
            yield self._more(event)

    async def _send(self, request: Any, context: Any) -> Any:
        self.taken.append(request)
        return self._more(self._protocol.message(f"{_FEEDBACK}.SendResponse")(feedback_id=request.event.id))

    def _knows_more(self) -> bool:
        return self._protocol is versions.newer()

    def _finish(self) -> int:
        return versions.NEWER_VALUE if self._knows_more() else 1

    def _more(self, answer: Any) -> Any:
        if self._knows_more():
            versions.say_more(answer)
        return answer


@pytest.fixture(params=["released", "newer"])
async def other(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, Gateway, trimtab_client.AsyncTrimtab]]:
    """Which version it is, its gateway, and today's client to it."""
    server, made = grpc.aio.server(), Gateway(PROTOCOLS[request.param]())
    made.register(server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with trimtab_client.AsyncTrimtab(address, api_key=gateway.KEY, line=gateway.LINE) as client:
        yield request.param, made, client
    await server.stop(None)


async def test_a_question_is_asked_and_answered(
    other: tuple[str, Gateway, trimtab_client.AsyncTrimtab],
) -> None:
    version, served, client = other
    answer = await client.chat("How?", session="s", segment="web", n=1, temperature=0.5, stop="x")
    assert (answer.id, answer.policy_id, answer.text) == ("chatcmpl-1", gateway.POLICY_ID, "".join(gateway.WORDS))
    assert answer.choices[0].finish_reason == ("stop" if version == "released" else "unknown")
    [asked] = served.taken
    assert (asked.model, asked.messages[0].content.plain, asked.sampling.temperature) == (gateway.LINE, "How?", 0.5)


async def test_an_answer_comes_in_pieces(other: tuple[str, Gateway, trimtab_client.AsyncTrimtab]) -> None:
    version, _, client = other
    *pieces, last = [piece async for piece in client.stream("How?")]
    assert [piece.text for piece in (*pieces, last)] == list(gateway.WORDS)
    assert last.answer is not None
    assert last.answer.text == "".join(gateway.WORDS)
    assert last.answer.choices[0].finish_reason == ("stop" if version == "released" else "unknown")


async def test_feedback_is_given_and_acknowledged(other: tuple[str, Gateway, trimtab_client.AsyncTrimtab]) -> None:
    _, served, client = other
    receipt = await client.feedback.thumb("chatcmpl-1", up=True, id="click", network="203.0.113.7")
    assert receipt.id == "click"
    [sent] = served.taken
    assert (sent.event.id, sent.event.thumb.up, sent.event.thumb.target.completion_id) == ("click", True, "chatcmpl-1")
