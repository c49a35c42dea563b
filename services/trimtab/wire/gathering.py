"""Votes that come while others are on their way go on together: what a call costs is shared, and alone nobody waits.

Used by `gateway.voting`. Every vote has its own answer or its own error, the same as if it had travelled alone.
"""

import asyncio
import collections
import dataclasses
import math
from collections.abc import Callable, Sequence

import grpc.aio

from trimtab.core import errors, feedback
from trimtab.wire import calls, codec
from trimtabapi.feedback.v1 import feedback_service_pb2 as pb
from trimtabapi.feedback.v1 import feedback_service_pb2_grpc

# Calls under way at once; what comes meanwhile waits for one of them to end. A second one begins only when the first
# takes long: the fewer the calls, the less a vote costs.
MOST_CALLS = 2
_LONG_S = 0.05
# Of one call: well below what a message may have.
_MOST_BYTES, _MOST_VOTES = 4 * 1024 * 1024, 1000
# Of votes that wait.
MOST_WAITING = 20_000


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Vote:
    request: pb.SendRequest
    bytes: int
    answer: asyncio.Future[feedback.SendResponse]


class Gatherer:
    """channel: to the feedback service, asked for at every call. Used inside one event loop."""

    def __init__(self, channel: Callable[[], grpc.aio.Channel], *, timeout_s: float) -> None:
        self._channel = channel
        self._timeout_s = timeout_s
        self._waiting: collections.deque[_Vote] = collections.deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._newest = -math.inf  # when the last call began, by the loop's clock
        self._look_again: asyncio.TimerHandle | None = None

    async def send(self, request: feedback.SendRequest) -> feedback.SendResponse:
        """Returns once the log has the event; Overloaded when too many wait already."""
        if len(self._waiting) >= MOST_WAITING:
            raise errors.Overloaded(f"{len(self._waiting)} votes wait for the feedback service; retry with back-off.")
        wire = codec.to_proto(request, pb.SendRequest)
        loop = asyncio.get_running_loop()
        vote = _Vote(wire, wire.ByteSize(), loop.create_future())
        self._waiting.append(vote)
        loop.call_soon(self._go_on)  # with what comes in the same moment
        try:
            async with asyncio.timeout(self._timeout_s):
                return await vote.answer
        except TimeoutError:
            raise errors.DeadlineExceeded(
                f"The feedback service did not answer within {self._timeout_s:g} s; retrying the same id is safe."
            ) from None

    def _go_on(self) -> None:
        if not self._waiting or len(self._calls) >= MOST_CALLS or self._look_again is not None:
            return
        loop = asyncio.get_running_loop()
        if self._calls and loop.time() < self._newest + _LONG_S:
            self._look_again = loop.call_at(self._newest + _LONG_S, self._looked)
        elif taken := self._take():
            self._newest = loop.time()
            call = asyncio.create_task(self._deliver(taken))
            self._calls.add(call)
            call.add_done_callback(self._ended)

    def _looked(self) -> None:
        self._look_again = None
        self._go_on()

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if self._look_again is not None and not self._calls:
            self._look_again.cancel()
            self._look_again = None
        self._go_on()

    def _take(self) -> list[_Vote]:
        """The next ones, without those whose senders have gone."""
        taken: list[_Vote] = []
        left = _MOST_BYTES
        while self._waiting and len(taken) < _MOST_VOTES and (not taken or self._waiting[0].bytes <= left):
            vote = self._waiting.popleft()
            if not vote.answer.done():
                taken.append(vote)
                left -= vote.bytes
        return taken

    async def _deliver(self, votes: Sequence[_Vote]) -> None:
        try:
            outcomes = await self._answered([vote.request for vote in votes])
        except errors.TrimtabError as problem:
            outcomes = [problem] * len(votes)
        for vote, outcome in zip(votes, outcomes, strict=True):
            if vote.answer.done():
                continue
            if isinstance(outcome, errors.TrimtabError):
                vote.answer.set_exception(outcome)
            else:
                vote.answer.set_result(outcome)

    async def _answered(
        self, requests: Sequence[pb.SendRequest]
    ) -> Sequence[feedback.SendResponse | errors.TrimtabError]:
        """One answer or error per vote, in order; one that is alone travels in a call of its own."""
        stub = feedback_service_pb2_grpc.FeedbackServiceStub(self._channel())
        if len(requests) == 1:
            return [calls.read(await calls.ask(stub.Send, requests[0], self._timeout_s), feedback.SendResponse)]
        asked = calls.ask(stub.SendBatch, pb.SendBatchRequest(items=requests), self._timeout_s)
        results = calls.read(await asked, feedback.SendBatchResponse).results
        if len(results) != len(requests):
            raise errors.InternalFault(f"SendBatch ({len(results)} answers to {len(requests)} votes)")
        return [_outcome(result.outcome) for result in results]


def _outcome(told: feedback.SendResponse | feedback.Refusal) -> feedback.SendResponse | errors.TrimtabError:
    """What a call of its own would have returned or raised."""
    if isinstance(told, feedback.SendResponse):
        return told
    return errors.restore(told.reason, told.message, told.details) or errors.InternalFault(f"SendBatch ({told.reason})")
