"""`AsyncTrimtab`: an app's door to a platform, for asyncio. `client` has the same without."""

import asyncio
import functools
import types
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Self, Unpack

import grpc
import grpc.aio

from trimtab_client import answers, channel, errors, feedback, sending
from trimtabapi.feedback.v1 import feedback_service_pb2_grpc
from trimtabapi.policy.v1 import policy_service_pb2, policy_service_pb2_grpc


class AsyncTrimtab:
    """One connection, for one event loop, opened by the first call. `close` it, or use it with `async with`.

    What it takes, gives and raises is `Trimtab`'s; every method of `feedback` is awaited.
    """

    def __init__(
        self, address: str, *, api_key: str, line: str, credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        self._line = line
        self._metadata = channel.metadata(api_key)
        self._open = functools.partial(channel.open_async, address, credentials)
        self.feedback = feedback.Feedback(line, self._send)

    async def chat(
        self,
        messages: str | Iterable[Mapping[str, str]],
        *,
        timeout_s: float = answers.TIMEOUT_S,
        **options: Unpack[answers.Options],
    ) -> answers.Answer:
        """The answer to a question, or to a conversation of {"role", "content"} messages."""
        request = answers.request(self._line, messages, **options)
        try:
            return answers.read(await self._policy.Complete(request, timeout=timeout_s, metadata=self._metadata))
        except grpc.RpcError as problem:
            raise errors.from_rpc(problem) from problem

    def stream(
        self,
        messages: str | Iterable[Mapping[str, str]],
        *,
        timeout_s: float = answers.TIMEOUT_S,
        **options: Unpack[answers.Options],
    ) -> AsyncGenerator[answers.Piece, None]:
        """The same answer in pieces, as it is made; the last piece has the whole.

        Who leaves early closes it (`contextlib.aclosing`), which ends the work on it.
        """
        return self._pieces(answers.request(self._line, messages, **options), timeout_s)

    async def close(self) -> None:
        """Ends the connection, and the calls on it."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _problem: BaseException | None, _trace: types.TracebackType | None
    ) -> None:
        await self.close()

    @functools.cached_property
    def _channel(self) -> grpc.aio.Channel:
        # not in the constructor, which may run before there is an event loop
        return self._open()

    @functools.cached_property
    def _policy(self) -> "policy_service_pb2_grpc.PolicyServiceAsyncStub":
        return policy_service_pb2_grpc.PolicyServiceStub(self._channel)

    @functools.cached_property
    def _feedback(self) -> "feedback_service_pb2_grpc.FeedbackServiceAsyncStub":
        return feedback_service_pb2_grpc.FeedbackServiceStub(self._channel)

    async def _pieces(
        self, request: policy_service_pb2.CompleteRequest, timeout_s: float
    ) -> AsyncGenerator[answers.Piece, None]:
        call = self._policy.StreamComplete(request, timeout=timeout_s, metadata=self._metadata)
        assembly = answers.Assembly()
        try:
            async for event in call:
                if piece := assembly.take(event):
                    yield piece
            assembly.end()
        except grpc.RpcError as problem:
            raise errors.from_rpc(problem) from problem
        finally:
            call.cancel()

    async def _send(self, given: sending.Sending) -> sending.Receipt:
        while True:
            try:
                answer = await self._feedback.Send(given.request, timeout=given.attempt_s(), metadata=self._metadata)
                return given.acknowledged(answer)
            except grpc.RpcError as problem:
                outcome = given.after(errors.from_rpc(problem))
            if isinstance(outcome, sending.Receipt):
                return outcome
            await asyncio.sleep(outcome)
