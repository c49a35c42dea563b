"""Votes that come together go on together; each has its own answer, as if it had been alone."""

import asyncio
import contextlib
import dataclasses
import fcntl
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import prometheus_client
import pytest

import trimtab_client
from trimtab.bus import topics
from trimtab.core import clock, completions, errors, feedback, ids, text
from trimtab.gateway import channels, voting
from trimtab.wire import calls, gathering
from trimtabapi.feedback.v1 import feedback_service_pb2, feedback_service_pb2_grpc

SERVICE = "/trimtabapi.feedback.v1.FeedbackService/"


@pytest.fixture
async def votes(platform: Any) -> AsyncIterator[calls.FeedbackCalls]:
    async with trimtab_client.connect(platform.grpc_address, platform.api_key) as opened:
        yield calls.FeedbackCalls(opened)


def vote(platform: Any, name: str, *, up: bool = True, choice: int = 0) -> feedback.SendRequest:
    session = ids.keyed_hash(b"k", name)
    token = ids.CompletionToken(ids.content_uuid(name), session, b"r" * 8, completions.Arm.STABLE, randomised=True)
    target = text.ResponseRef(ids.mint(token, "acme", platform.secrets.signing), choice)
    return feedback.SendRequest("", feedback.FeedbackEvent(name, clock.utc_now(), feedback.Thumb(target, up=up)))


def answered(method: str) -> float:
    labels = {"method": SERVICE + method, "code": "OK"}
    return prometheus_client.REGISTRY.get_sample_value("trimtab_rpc_calls_total", labels) or 0.0


async def test_many_at_once_take_few_calls_and_one_that_is_refused_holds_up_no_other(
    platform: Any, votes: calls.FeedbackCalls
) -> None:
    before = answered("SendBatch")
    asked = [vote(platform, f"v{number}", choice=-1 if number == 7 else 0) for number in range(100)]
    answers = await asyncio.gather(*(votes.send(one) for one in asked), return_exceptions=True)
    refused = answers.pop(7)
    assert isinstance(refused, errors.InvalidField)
    assert "choice" in refused.field
    assert {one.feedback_id for one in answers} == {f"v{number}" for number in range(100) if number != 7}
    assert {event.id for event in platform.records(topics.FEEDBACK, feedback.FeedbackEvent)} == {
        one.feedback_id for one in answers
    }
    assert 0 < answered("SendBatch") - before < 60


async def test_a_copy_and_another_body_are_told_apart_among_others(platform: Any, votes: calls.FeedbackCalls) -> None:
    await votes.send(vote(platform, "known"))
    copy, other, new = await asyncio.gather(
        votes.send(vote(platform, "known")),
        votes.send(vote(platform, "known", up=False)),
        votes.send(vote(platform, "new")),
        return_exceptions=True,
    )
    assert copy == feedback.SendResponse("known", duplicate=True)
    assert isinstance(other, errors.ConflictingFeedback)
    assert new == feedback.SendResponse("new")


@contextlib.contextmanager
def nobody_writes(log_url: str) -> Any:
    with pathlib.Path(f"{log_url.removeprefix('sqlite://')}.write").open("rb") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield


async def test_where_the_log_is_away_every_one_of_them_is_told_and_too_many_are_refused(
    platform: Any, votes: calls.FeedbackCalls, settings_of: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "MOST_WAITING", 20)
    with nobody_writes(settings_of["log_url"]):
        sending = [asyncio.create_task(votes.send(vote(platform, f"v{number}"))) for number in range(200)]
        outcomes = await asyncio.gather(*sending, return_exceptions=True)
    kinds = {type(one) for one in outcomes}
    assert kinds <= {errors.LogUnavailable, errors.Overloaded, errors.DeadlineExceeded}
    assert {errors.LogUnavailable, errors.Overloaded} <= kinds
    assert await votes.send(vote(platform, "later")) == feedback.SendResponse("later")


async def test_a_vote_whose_sender_has_gone_holds_nothing_up(platform: Any, votes: calls.FeedbackCalls) -> None:
    sending = [asyncio.create_task(votes.send(vote(platform, f"v{number}"))) for number in range(40)]
    await asyncio.sleep(0)
    for one in sending[::2]:
        one.cancel()
    outcomes = await asyncio.gather(*sending, return_exceptions=True)
    assert all(isinstance(one, feedback.SendResponse) for one in outcomes[1::2])
    assert isinstance(await votes.send(vote(platform, "later")), feedback.SendResponse)


class BreaksOnce(feedback_service_pb2_grpc.FeedbackServiceServicer):
    """A feedback service that dies once it has a vote, before it says so."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def Send(self, request: Any, context: Any) -> Any:
        self.asked.append(request.event.id)
        if len(self.asked) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        return feedback_service_pb2.SendResponse(feedback_id=request.event.id)


class Slow(feedback_service_pb2_grpc.FeedbackServiceServicer):
    """A feedback service whose first call does not end before it may."""

    def __init__(self) -> None:
        self.asked, self.may_end = asyncio.Event(), asyncio.Event()
        self.calls: list[list[str]] = []

    async def Send(self, request: Any, context: Any) -> Any:
        self.calls.append([request.event.id])
        self.asked.set()
        await self.may_end.wait()
        return feedback_service_pb2.SendResponse(feedback_id=request.event.id)

    async def SendBatch(self, request: Any, context: Any) -> Any:
        self.calls.append([item.event.id for item in request.items])
        accepted = [feedback_service_pb2.SendResponse(feedback_id=item.event.id) for item in request.items]
        return feedback_service_pb2.SendBatchResponse(
            results=[feedback_service_pb2.SendBatchResult(accepted=one) for one in accepted]
        )


@contextlib.asynccontextmanager
async def through(service: feedback_service_pb2_grpc.FeedbackServiceServicer) -> AsyncIterator[voting.Voting]:
    """The gateway's votes, before a feedback service of the test's."""
    server = grpc.aio.server()
    feedback_service_pb2_grpc.add_FeedbackServiceServicer_to_server(service, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    opened = channels.Channels(trimtab_client.connect, grace_s=0.1)
    yield voting.Voting(opened, address, hash_key=b"k", deadline_s=30.0)
    await opened.close()
    await server.stop(0)


async def test_what_comes_during_a_call_goes_on_as_one_and_waits_for_a_slow_call_a_moment_only(platform: Any) -> None:
    slow = Slow()
    async with through(slow) as votes:
        first = asyncio.create_task(votes.send("acme", vote(platform, "first"), ""))
        await slow.asked.wait()
        later = []
        for number in range(5):
            later.append(asyncio.create_task(votes.send("acme", vote(platform, f"v{number}"), "")))
            await asyncio.sleep(0)
        assert [(await one).feedback_id for one in later] == [f"v{number}" for number in range(5)]
        assert not first.done()
        assert slow.calls == [["first"], [f"v{number}" for number in range(5)]]
        slow.may_end.set()
        assert (await first).feedback_id == "first"


async def test_a_vote_without_an_id_that_is_tried_again_is_the_same_vote(platform: Any) -> None:
    broken = BreaksOnce()
    async with through(broken) as votes:
        asked = vote(platform, "x")
        nameless = feedback.SendRequest("", dataclasses.replace(asked.event, id=""))
        answer = await votes.send("acme", nameless, "")
    assert broken.asked == [answer.feedback_id] * 2
