"""The gateway's gRPC door: the same domain methods, the same rules, an API key instead of the internal token."""

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from tests import timing

import trimtab_client
from trimtab.bus import topics
from trimtab.core import audit, clock, completions, errors, feedback, ids, text
from trimtab.wire import calls
from trimtabapi.feedback.v1 import feedback_service_pb2, feedback_service_pb2_grpc
from trimtabapi.policy.v1 import policy_service_pb2, policy_service_pb2_grpc

QUESTION = (text.Message(text.Role.USER, text.Text("How?")),)


@pytest.fixture
async def channel(platform: Any) -> AsyncIterator[grpc.aio.Channel]:
    async with trimtab_client.connect(platform.grpc_address, platform.api_key) as opened:
        yield opened


async def test_a_completion_and_a_vote_on_it(platform: Any, channel: grpc.aio.Channel) -> None:
    request = completions.CompleteRequest(QUESTION, model="support", session_id="s", n=0)
    answer = await calls.PolicyCalls(channel).complete(request)
    assert answer.completion.responses[0].text.read() == "Press Start."
    token = ids.verify(answer.completion.id, "acme", platform.secrets.signing)
    assert token.session_hash == ids.keyed_hash(platform.secrets.hash_key, "acme", "support", "s")
    event = feedback.FeedbackEvent(
        "f1",
        clock.utc_now(),
        feedback.Thumb(text.ResponseRef(answer.completion.id), up=True),
        rater=feedback.Rater(id="ann"),
    )
    assert await calls.FeedbackCalls(channel).send(feedback.SendRequest("", event)) == feedback.SendResponse("f1")
    [written] = platform.records(topics.FEEDBACK, feedback.FeedbackEvent)
    assert len(written.rater.id) == 32


async def test_a_network_is_hashed_and_what_is_none_is_refused(platform: Any, channel: grpc.aio.Channel) -> None:
    answer = await calls.PolicyCalls(channel).complete(completions.CompleteRequest(QUESTION, model="support"))

    def vote(name: str, network: str) -> feedback.SendRequest:
        kind = feedback.Thumb(text.ResponseRef(answer.completion.id), up=True)
        return feedback.SendRequest(
            "", feedback.FeedbackEvent(name, clock.utc_now(), kind, rater=feedback.Rater(id=name, network=network))
        )

    votes = calls.FeedbackCalls(channel)
    await votes.send(vote("ann", "2001:db8:7::1"))
    await votes.send(vote("bob", "2001:db8:7:ffff::/64"))
    one, other = platform.records(topics.FEEDBACK, feedback.FeedbackEvent)
    assert one.rater.id != other.rater.id
    assert one.rater.network == other.rater.network
    expected = ids.keyed_hash(platform.secrets.hash_key, "network", "acme", "2001:db8:7::/48")
    assert bytes.fromhex(one.rater.network) == expected
    with pytest.raises(errors.InvalidField, match=r"rater\.network"):
        await votes.send(vote("eve", "2001:db8:7"))
    rater = feedback.Rater(feedback.RaterKind.ANNOTATOR, "ann", "2001:db8:7::1")
    item = feedback.ImportedPreference(QUESTION, text.Text("So."), text.Text("No."), "1")
    with pytest.raises(errors.InvalidField, match=r"rater\.network.*import"):
        await votes.import_preferences(feedback.ImportPreferencesRequest("", "support", "hh", (item,), rater=rater))
    assert len(platform.records(topics.FEEDBACK, feedback.FeedbackEvent)) == 2


async def test_what_a_request_may_leave_out_is_filled_in(platform: Any, channel: grpc.aio.Channel) -> None:
    request = policy_service_pb2.CompleteRequest(model="support")
    request.messages.add(role="ROLE_USER").content.plain = "How?"
    answer = await policy_service_pb2_grpc.PolicyServiceStub(channel).Complete(request, timeout=timing.PATIENCE_S)
    vote = feedback_service_pb2.SendRequest()
    vote.event.thumb.target.completion_id = answer.completion.id
    sent = await feedback_service_pb2_grpc.FeedbackServiceStub(channel).Send(vote, timeout=timing.PATIENCE_S)
    [written] = platform.records(topics.FEEDBACK, feedback.FeedbackEvent)
    assert (written.id, written.rater) == (sent.feedback_id, feedback.Rater())


async def test_a_segment_reaches_the_policy_and_a_bad_one_is_refused(platform: Any, channel: grpc.aio.Channel) -> None:
    policy = calls.PolicyCalls(channel)
    await policy.complete(completions.CompleteRequest(QUESTION, model="support@stable", segment="mobile-de"))
    body = platform.chat(metadata={"segment": "web"}) | {"model": "support@stable"}
    assert (await platform.http.post("/v1/chat/completions", json=body)).status_code == 200
    assert [asked.segment for asked in platform.stable.asked] == ["mobile-de", "web"]
    with pytest.raises(errors.InvalidField, match=r"`segment` is no usable name"):
        await policy.complete(completions.CompleteRequest(QUESTION, model="support", segment="mobile de"))
    refused = await platform.http.post("/v1/chat/completions", json=body | {"metadata": {"segment": "a/b"}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "metadata.segment")


async def test_a_streamed_completion(platform: Any, channel: grpc.aio.Channel) -> None:
    request = completions.CompleteRequest(QUESTION, model="support@candidate")
    events = [event async for event in calls.PolicyCalls(channel).stream_complete(request)]
    assert "".join(event.delta for event in events) == "Press Start."
    assert events[-1].finish_reason is completions.FinishReason.STOP
    assert platform.candidate.asked


async def test_an_import_goes_to_the_keys_tenant(platform: Any, channel: grpc.aio.Channel) -> None:
    item = feedback.ImportedPreference(QUESTION, text.Text("So."), text.Text("No."), "1")
    request = feedback.ImportPreferencesRequest("", "support", "hh", (item,), "root", "an app is no operator", "1")
    answer = await calls.FeedbackCalls(channel).import_preferences(request)
    assert answer.accepted == 1
    [completion] = platform.records(topics.COMPLETIONS, completions.Completion)
    assert completion.context.tenant == "acme"
    assert platform.records(topics.AUDIT, audit.AuditRecord) == []


async def test_a_models_verdicts_on_texts_from_elsewhere_are_its_own(platform: Any, channel: grpc.aio.Channel) -> None:
    item = feedback.ImportedPreference(QUESTION, text.Text("So."), text.Text("No."), "1", feedback_id="mine")
    rater = feedback.Rater(feedback.RaterKind.MODEL, "model tiny")
    request = feedback.ImportPreferencesRequest("", "support", "hh", (item,), rater=rater, criterion="helpful")
    assert (await calls.FeedbackCalls(channel).import_preferences(request)).accepted == 1
    long = dataclasses.replace(request, rater=dataclasses.replace(rater, id="r" * 300))
    with pytest.raises(errors.InvalidField, match="rater"):
        await calls.FeedbackCalls(channel).import_preferences(long)
    [event] = platform.records(topics.FEEDBACK, feedback.FeedbackEvent)
    assert (event.id, event.criterion, event.rater.kind) == ("mine", "helpful", feedback.RaterKind.MODEL)
    assert len(event.rater.id) == 32 and event.context.subject_hash.hex() == event.rater.id


async def test_a_batch_is_answered_in_order_with_the_items_refused_here(
    platform: Any, channel: grpc.aio.Channel
) -> None:
    answer = await calls.PolicyCalls(channel).complete(completions.CompleteRequest(QUESTION, model="support"))

    def item(event_id: str, **given: Any) -> feedback.SendRequest:
        kind = feedback.Thumb(text.ResponseRef(answer.completion.id), up=True)
        return feedback.SendRequest("", feedback.FeedbackEvent(event_id, clock.utc_now(), kind, **given))

    batch = feedback.SendBatchRequest(
        (item("1", rater=feedback.Rater(id="r" * 300)), item("2"), item("3" * 200), item("4"))
    )
    results = (await calls.FeedbackCalls(channel).send_batch(batch)).results
    assert [isinstance(result.outcome, feedback.SendResponse) for result in results] == [False, True, False, True]
    assert [event.id for event in platform.records(topics.FEEDBACK, feedback.FeedbackEvent)] == ["2", "4"]


async def test_what_the_gateway_assigns_and_another_tenants_name_are_refused(
    platform: Any, channel: grpc.aio.Channel
) -> None:
    exposure = completions.Exposure("r", "evidence", completions.Arm.CANDIDATE, 1.0, True)
    own = completions.Assignment("chatcmpl-x", text.Context("acme", "support"), exposure)
    with pytest.raises(errors.InvalidField, match="assignment"):
        await calls.PolicyCalls(channel).complete(completions.CompleteRequest(QUESTION, "support", assignment=own))
    event = feedback.FeedbackEvent("f", clock.utc_now(), feedback.Thumb(text.ResponseRef("c"), up=True))
    with pytest.raises(errors.NotAllowed):
        await calls.FeedbackCalls(channel).send(feedback.SendRequest("rival", event))
    assert platform.stable.asked + platform.candidate.asked == []
    assert platform.written() == 0


async def test_the_internal_token_opens_no_public_door(platform: Any) -> None:
    async with trimtab_client.connect(platform.grpc_address, platform.secrets.internal_token) as channel:
        with pytest.raises(errors.NotAuthenticated):
            await calls.PolicyCalls(channel).complete(completions.CompleteRequest(QUESTION, "support"))
