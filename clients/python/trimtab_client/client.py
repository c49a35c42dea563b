"""`Trimtab`: an app's door to a platform, for code without asyncio. `aio` has the same for asyncio."""

import time
import types
from collections.abc import Generator, Iterable, Mapping
from typing import Self, Unpack

import grpc

from trimtab_client import answers, channel, errors, feedback, sending
from trimtabapi.feedback.v1 import feedback_service_pb2_grpc
from trimtabapi.policy.v1 import policy_service_pb2, policy_service_pb2_grpc


class Trimtab:
    """One connection, for every thread of a process; open it after a fork. `close` it, or use it with `with`.

    address: host:port of the gateway's gRPC door; line: the policy line that answers; credentials: e.g.
    `grpc.ssl_channel_credentials()`, in the clear without. `feedback` takes what people think of the answers.
    """

    def __init__(
        self, address: str, *, api_key: str, line: str, credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        self._line = line
        self._metadata = channel.metadata(api_key)
        self._channel = channel.open_sync(address, credentials)
        self._policy = policy_service_pb2_grpc.PolicyServiceStub(self._channel)
        self._feedback = feedback_service_pb2_grpc.FeedbackServiceStub(self._channel)
        self.feedback = feedback.Feedback(line, self._send)

    def chat(
        self,
        messages: str | Iterable[Mapping[str, str]],
        *,
        timeout_s: float = answers.TIMEOUT_S,
        **options: Unpack[answers.Options],
    ) -> answers.Answer:
        """The answer to a question, or to a conversation of {"role", "content"} messages.

        Raises InvalidField, PromptTooLong or UnsupportedParameter for what cannot be asked, UnknownModel for a line
        that is not served, Overloaded, ServiceUnavailable (after a few attempts) and DeadlineExceeded.
        """
        request = answers.request(self._line, messages, **options)
        try:
            return answers.read(self._policy.Complete(request, timeout=timeout_s, metadata=self._metadata))
        except grpc.RpcError as problem:
            raise errors.from_rpc(problem) from problem

    def stream(
        self,
        messages: str | Iterable[Mapping[str, str]],
        *,
        timeout_s: float = answers.TIMEOUT_S,
        **options: Unpack[answers.Options],
    ) -> Generator[answers.Piece, None, None]:
        """The same answer in pieces, as it is made; the last piece has the whole. Closing it ends the work on it.

        Raises what `chat` does, also between pieces: then the answer is not complete.
        """
        return self._pieces(answers.request(self._line, messages, **options), timeout_s)

    def close(self) -> None:
        """Ends the connection, and the calls on it."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _problem: BaseException | None, _trace: types.TracebackType | None
    ) -> None:
        self.close()

    def _pieces(
        self, request: policy_service_pb2.CompleteRequest, timeout_s: float
    ) -> Generator[answers.Piece, None, None]:
        call = self._policy.StreamComplete(request, timeout=timeout_s, metadata=self._metadata)
        assembly = answers.Assembly()
        try:
            for event in call:
                if piece := assembly.take(event):
                    yield piece
            assembly.end()
        except grpc.RpcError as problem:
            raise errors.from_rpc(problem) from problem
        finally:
            call.cancel()

    def _send(self, given: sending.Sending) -> sending.Receipt:
        while True:
            try:
                answer = self._feedback.Send(given.request, timeout=given.attempt_s(), metadata=self._metadata)
                return given.acknowledged(answer)
            except grpc.RpcError as problem:
                outcome = given.after(errors.from_rpc(problem))
            if isinstance(outcome, sending.Receipt):
                return outcome
            time.sleep(outcome)
