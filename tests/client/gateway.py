"""A gateway that says what it is told to: the real services over real gRPC, with answers and failures of a test's."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from trimtab.core import errors
from trimtabapi.completion.v1 import completion_pb2
from trimtabapi.feedback.v1 import feedback_service_pb2, feedback_service_pb2_grpc
from trimtabapi.policy.v1 import policy_service_pb2, policy_service_pb2_grpc

KEY, LINE, POLICY_ID = "tt-key", "support", "a" * 64
WORDS = ("Press", " ", "Start", ".")


def authenticate(api_key: str) -> str:
    if api_key != KEY:
        raise errors.NotAuthenticated()
    return "acme"


class Policies(policy_service_pb2_grpc.PolicyServiceServicer):
    """Answers WORDS. `failures` are raised first, one a call; some questions end a stream early, or never."""

    def __init__(self) -> None:
        self.asked: list[policy_service_pb2.CompleteRequest] = []
        self.failures: list[errors.TrimtabError] = []
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def Complete(self, request: Any, context: Any) -> policy_service_pb2.CompleteResponse:
        self._receive(request)
        answer = policy_service_pb2.CompleteResponse()
        answer.completion.id, answer.completion.policy_id = "chatcmpl-1", POLICY_ID
        for choice in range(request.n or 1):
            made = answer.completion.responses.add(choice=choice, finish_reason=completion_pb2.FINISH_REASON_LENGTH)
            made.text.plain = "".join(WORDS)
        answer.usage.prompt_tokens, answer.usage.completion_tokens = 5, 4 * (request.n or 1)
        return answer

    async def StreamComplete(
        self, request: Any, context: Any
    ) -> AsyncIterator[policy_service_pb2.StreamCompleteResponse]:
        self._receive(request)
        choices = request.n or 1
        for position, word in enumerate(WORDS):
            if position == 2:
                match request.messages[-1].content.plain:
                    case "break":
                        raise errors.ServiceUnavailable("The policy broke.")
                    case "end":
                        return
                    case "wait":
                        await self._wait_for_ever()
            for choice in range(choices):
                event = policy_service_pb2.StreamCompleteResponse(
                    completion_id="chatcmpl-1", choice=choice, delta=word, policy_id=POLICY_ID
                )
                if position == len(WORDS) - 1:
                    event.finish_reason = completion_pb2.FINISH_REASON_STOP
                    if choice == choices - 1:
                        event.usage.prompt_tokens, event.usage.completion_tokens = 5, 4 * choices
                yield event

    async def _wait_for_ever(self) -> None:
        self.waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    def _receive(self, request: policy_service_pb2.CompleteRequest) -> None:
        self.asked.append(request)
        if self.failures:
            raise self.failures.pop(0)

    async def Describe(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def register(self, server: grpc.aio.Server) -> None:
        policy_service_pb2_grpc.add_PolicyServiceServicer_to_server(self, server)


class Votes(feedback_service_pb2_grpc.FeedbackServiceServicer):
    """Keeps what it is sent by its id, as the platform does. `failures` are raised first, one a call.

    With `takes_in_first`, it keeps the feedback before it fails: the acknowledgement is what is lost.
    """

    def __init__(self) -> None:
        self.attempts: list[feedback_service_pb2.SendRequest] = []
        self.kept: dict[str, bytes] = {}
        self.failures: list[errors.TrimtabError] = []
        self.takes_in_first = False

    async def Send(self, request: Any, context: Any) -> feedback_service_pb2.SendResponse:
        self.attempts.append(request)
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None and not self.takes_in_first:
            raise failure
        event, body = request.event, request.SerializeToString()
        duplicate = event.id in self.kept
        if self.kept.setdefault(event.id, body) != body:
            raise errors.ConflictingFeedback(event.id)
        if failure is not None:
            raise failure
        return feedback_service_pb2.SendResponse(feedback_id=event.id, duplicate=duplicate)

    async def SendBatch(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def ImportPreferences(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def register(self, server: grpc.aio.Server) -> None:
        feedback_service_pb2_grpc.add_FeedbackServiceServicer_to_server(self, server)
