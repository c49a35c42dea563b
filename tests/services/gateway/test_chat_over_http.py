"""Chat completions as the official OpenAI client sees them."""

import asyncio
import json
import pathlib
from typing import Any

import httpx
import openai
import pytest
from tests.services.gateway.conftest import FixedPolicy, eventually, serving_policy

from trimtab.core import completions, ids
from trimtab.rpc import secrets

STABLE_ID, CANDIDATE_ID = "a" * 64, "b" * 64


async def test_a_completion_has_a_signed_id_and_says_which_policy_answered(platform: Any) -> None:
    raw = await platform.openai.chat.completions.with_raw_response.create(**platform.chat())
    answer = raw.parse()
    assert answer.choices[0].message.content == "Press Start."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 4, 9)
    policy_id = raw.headers["x-trimtab-policy"]
    assert answer.system_fingerprint == policy_id[:12]
    assert raw.headers["x-trimtab-release"] == "release-0.5"
    token = ids.verify(answer.id, "acme", platform.secrets.signing)
    assert token.randomised
    assert token.release == ids.release_tag("release-0.5")
    assert token.arm.value == raw.headers["x-trimtab-arm"]


async def test_the_policy_gets_the_assignment_and_no_names(platform: Any) -> None:
    trace = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    answer = await platform.openai.chat.completions.create(
        **platform.chat(user="ann"), extra_headers={"x-trimtab-session": "s1", "traceparent": trace}
    )
    [asked] = platform.stable.asked + platform.candidate.asked
    assert (asked.model, asked.user, asked.session_id) == ("", "", "")
    assert asked.assignment.completion_id == answer.id
    context = asked.assignment.context
    assert (context.tenant, context.line, context.store, context.traceparent) == ("acme", "support", True, trace)
    assert context.session_hash == ids.keyed_hash(platform.secrets.hash_key, "acme", "support", "s1")
    assert len(context.subject_hash) == 16
    exposure = asked.assignment.exposure
    assert (exposure.stage, exposure.propensity, exposure.randomised) == ("evidence", 0.5, True)


async def test_without_consent_the_context_says_so(platform: Any) -> None:
    answer = await platform.openai.chat.completions.create(**platform.chat(store=False))
    [asked] = platform.stable.asked + platform.candidate.asked
    assert asked.assignment.context.store is False
    assert not ids.verify(answer.id, "acme", platform.secrets.signing).kept


async def test_several_choices_with_logprobs(platform: Any) -> None:
    answer = await platform.openai.chat.completions.create(**platform.chat(n=2, logprobs=True, top_logprobs=1))
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[1].logprobs is not None
    content = answer.choices[1].logprobs.content
    assert content is not None
    assert [token.token for token in content] == ["Press", " ", "Start", "."]
    assert content[0].logprob == -0.5
    assert content[0].top_logprobs[0].token == "Press"


async def test_a_stream_of_several_choices_with_usage(platform: Any) -> None:
    stream = await platform.openai.chat.completions.create(
        **platform.chat(n=2, stream=True, stream_options={"include_usage": True})
    )
    chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    assert ids.verify(chunks[0].id, "acme", platform.secrets.signing).randomised
    said = {0: "", 1: ""}
    for chunk in chunks:
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
    assert said == {0: "Press Start.", 1: "Press Start."}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 13
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_a_stream_is_server_sent_events_that_end_with_done(platform: Any) -> None:
    response = await platform.http.post("/v1/chat/completions", json=platform.chat(stream=True, logprobs=True))
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    bodies = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert bodies[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert bodies[1]["choices"][0]["logprobs"]["content"][0]["token"] == "Press"
    assert bodies[-1]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert all("usage" not in body for body in bodies)


async def test_a_session_keeps_its_arm_and_sessions_are_shared_out(platform: Any) -> None:
    seen: dict[str, set[str]] = {}
    for session in [f"s{number}" for number in range(24)] * 2:
        response = await platform.http.post(
            "/v1/chat/completions", json=platform.chat(), headers={"x-trimtab-session": session}
        )
        seen.setdefault(session, set()).add(response.headers["x-trimtab-policy"])
    assert all(len(policies) == 1 for policies in seen.values())
    assert set.union(*seen.values()) == {STABLE_ID, CANDIDATE_ID}


async def test_header_metadata_and_user_name_the_session_in_that_order(platform: Any) -> None:
    async def session_hash(headers: dict[str, str], **body: Any) -> bytes:
        response = await platform.http.post("/v1/chat/completions", json=platform.chat(**body), headers=headers)
        return bytes(ids.verify(response.json()["id"], "acme", platform.secrets.signing).session_hash)

    def of(session: str) -> bytes:
        return bytes(ids.keyed_hash(platform.secrets.hash_key, "acme", "support", session))

    everything = {"metadata": {"session_id": "m"}, "user": "u", "safety_identifier": "i"}
    assert await session_hash({"x-trimtab-session": "h"}, **everything) == of("h")
    assert await session_hash({}, **everything) == of("m")
    assert await session_hash({}, user="u", safety_identifier="i") == of("i")
    assert await session_hash({}, user="u") == of("u")
    assert await session_hash({}) != await session_hash({})


@pytest.mark.parametrize(
    ("pin", "policy_id"), [("candidate", CANDIDATE_ID), ("stable", STABLE_ID), ("b" * 12, CANDIDATE_ID)]
)
async def test_a_pinned_request_is_not_randomised(platform: Any, pin: str, policy_id: str) -> None:
    response = await platform.http.post("/v1/chat/completions", json=platform.chat(model=f"support@{pin}"))
    assert response.headers["x-trimtab-policy"] == policy_id
    assert not ids.verify(response.json()["id"], "acme", platform.secrets.signing).randomised
    [asked] = platform.stable.asked + platform.candidate.asked
    assert (asked.assignment.exposure.randomised, asked.assignment.exposure.propensity) == (False, 1.0)


async def test_models_are_the_lines_of_the_tenant_and_their_pinned_forms(platform: Any) -> None:
    names = [model.id async for model in platform.openai.models.list()]
    assert names[:2] == ["support", "support@stable"]
    assert f"support@{CANDIDATE_ID}" in names
    assert (await platform.openai.models.retrieve("support@candidate")).owned_by == "acme"
    with pytest.raises(openai.NotFoundError):
        await platform.openai.models.retrieve("sales")


async def test_an_error_after_the_first_chunk_is_the_last_event(platform: Any) -> None:
    stream = await platform.openai.chat.completions.create(**platform.chat("break", stream=True))
    with pytest.raises(openai.APIError, match="The policy broke"):
        [chunk async for chunk in stream]
    response = await platform.http.post("/v1/chat/completions", json=platform.chat("break", stream=True))
    assert "[DONE]" not in response.text
    last = json.loads(response.text.rstrip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["code"] == "service_unavailable"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("content", "status", "code"),
    [("overload", 429, "overloaded"), ("essay", 400, "context_length_exceeded")],
)
async def test_an_error_of_the_policy_is_the_clients_status(
    platform: Any, content: str, status: int, code: str, stream: bool
) -> None:
    response = await platform.http.post("/v1/chat/completions", json=platform.chat(content, stream=stream))
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert ("retry-after" in response.headers) == (status == 429)


@pytest.mark.parametrize(("content", "stream"), [("wait", False), ("wait", True), ("pause", True)])
async def test_a_client_that_leaves_stops_the_policy(platform: Any, content: str, stream: bool) -> None:
    body = platform.chat(content, stream=stream, model="support@stable")
    request = platform.http.build_request("POST", "/v1/chat/completions", json=body)

    async def ask() -> None:
        response = await platform.http.send(request, stream=True)
        async for _ in response.aiter_bytes():
            pass

    asking = asyncio.ensure_future(ask())
    async with asyncio.timeout(10):
        await platform.stable.waiting.wait()
        asking.cancel()
        await platform.stable.cancelled.wait()


async def test_a_newer_release_moves_the_traffic(platform: Any) -> None:
    platform.publish(candidate=1.0, stable=0.0, revision=2)
    await platform.until("/v1/models/support@stable", 404)
    for session in range(8):
        response = await platform.http.post(
            "/v1/chat/completions", json=platform.chat(), headers={"x-trimtab-session": str(session)}
        )
        assert response.headers["x-trimtab-policy"] == CANDIDATE_ID
        assert not ids.verify(response.json()["id"], "acme", platform.secrets.signing).randomised


async def test_a_policy_of_another_installation_is_asked_nothing(
    platform: Any, settings_of: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    """As after a restore beside the platform that was backed up: the record names that one's policy."""
    secrets.create(tmp_path / "others.toml", "acme")
    theirs = FixedPolicy(CANDIDATE_ID)
    async with serving_policy(theirs, settings_of | {"secrets_file": tmp_path / "others.toml"}) as address:
        platform.addresses[completions.Arm.CANDIDATE] = address
        platform.publish(candidate=1.0, stable=0.0, revision=2)

        async def refused() -> bool:
            return (await platform.http.post("/v1/chat/completions", json=platform.chat())).status_code == 503

        await eventually(refused)
        answer = await platform.http.post("/v1/chat/completions", json=platform.chat(stream=True))
        assert "another installation" in answer.text
        assert theirs.asked == []


async def test_health_needs_no_key(platform: Any) -> None:
    async with httpx.AsyncClient(base_url=platform.http.base_url) as stranger:
        assert (await stranger.get("/healthz")).status_code == 200
        assert (await stranger.get("/readyz")).json() == {"status": "ready"}


async def test_nothing_but_the_policy_writes_completions(platform: Any) -> None:
    await platform.openai.chat.completions.create(**platform.chat())
    assert platform.written() == 0
