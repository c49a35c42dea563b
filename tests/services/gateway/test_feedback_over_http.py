"""A vote from an app to the log, and everything that is refused on the way without a trace."""

import fcntl
import hashlib
import ipaddress
import pathlib
import time
from typing import Any

import httpx
import pytest

from trimtab.bus import topics
from trimtab.core import completions, feedback, ids, text
from trimtab.gateway import settings


async def answered(platform: Any, session: str = "s", **body: Any) -> str:
    response = await platform.http.post(
        "/v1/chat/completions", json=platform.chat(**body), headers={"x-trimtab-session": session}
    )
    return str(response.json()["id"])


async def vote(platform: Any, **body: Any) -> httpx.Response:
    response: httpx.Response = await platform.http.post("/v1/feedback", json=body)
    return response


def written(platform: Any) -> list[feedback.FeedbackEvent]:
    found: list[feedback.FeedbackEvent] = platform.records(topics.FEEDBACK, feedback.FeedbackEvent)
    return found


async def test_a_thumb_by_the_completions_id_is_in_the_log_once_it_is_accepted(platform: Any) -> None:
    completion_id = await answered(platform)
    response = await vote(platform, completion_id=completion_id, value="up", surface="chat")
    assert response.status_code == 200
    [event] = written(platform)
    assert response.json() == {"id": event.id, "status": "accepted", "duplicate": False}
    assert event.kind == feedback.Thumb(text.ResponseRef(completion_id), up=True)
    assert event.verified
    assert event.context is not None
    assert event.context.session_hash == ids.keyed_hash(platform.secrets.hash_key, "acme", "support", "s")


async def test_a_vote_on_a_streamed_answer_uses_the_id_of_its_chunks(platform: Any) -> None:
    stream = await platform.openai.chat.completions.create(**platform.chat(stream=True))
    chunks = [chunk async for chunk in stream]
    assert (await vote(platform, completion_id=chunks[-1].id, value="down")).status_code == 200


async def test_a_comparison_of_two_choices_and_of_two_answers_of_a_session(platform: Any) -> None:
    first, second = await answered(platform, n=2), await answered(platform)
    one = {"kind": "comparison", "completion_id": first, "preferred": {"choice": 1}, "rejected": {"choice": 0}}
    two = {"kind": "comparison", "preferred": {"completion_id": second}, "rejected": {"completion_id": first}}
    for body in (one | {"strength": 0.5}, two):
        assert (await vote(platform, **body)).status_code == 200
    kinds = {event.kind for event in written(platform)}
    assert kinds == {
        feedback.Comparison(text.ResponseRef(first, 1), text.ResponseRef(first, 0), 0.5),
        feedback.Comparison(text.ResponseRef(second), text.ResponseRef(first)),
    }


async def test_raters_are_hashed_before_they_leave_the_gateway(platform: Any) -> None:
    completion_id = await answered(platform, user="ann@example.org")
    await vote(platform, completion_id=completion_id, value="up", rater="ann@example.org")
    [event] = written(platform)
    [asked] = platform.stable.asked + platform.candidate.asked
    assert "ann" not in event.rater.id
    assert event.context is not None
    assert bytes.fromhex(event.rater.id) == event.context.subject_hash == asked.assignment.context.subject_hash


async def test_an_address_is_nowhere_in_the_log(
    platform: Any, settings_of: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    completion_id = await answered(platform)
    networks = ("198.51.100.77", "198.51.100.0/24", "2001:db8:77::1")
    for network in networks:
        rater = {"id": network[-2:], "network": network}
        assert (await vote(platform, completion_id=completion_id, value="up", rater=rater)).status_code == 200
    refused = await vote(platform, completion_id=completion_id, value="up", rater={"network": "198.51.100.77:80"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "rater.network")
    assert "198.51" not in refused.text
    one, same, other = (event.rater.network for event in written(platform))
    assert one == same != other
    assert bytes.fromhex(one) == ids.keyed_hash(platform.secrets.hash_key, "network", "acme", "198.51.100.0/24")
    path = pathlib.Path(settings_of["log_url"].removeprefix("sqlite://"))
    kept = b"".join(file.read_bytes() for file in path.parent.iterdir() if file.is_file())
    said = "".join(capfd.readouterr())
    assert one.encode() in kept
    for address in networks:
        packed = ipaddress.ip_interface(address).network.network_address.packed
        assert not [spelled for spelled in (address.encode(), packed) if spelled in kept]
        assert address not in said
    assert "198.51" not in said


async def test_a_vote_sent_again_counts_once_and_another_body_conflicts(platform: Any) -> None:
    completion_id = await answered(platform)
    key = {"idempotency-key": "click-1"}
    bodies = [{"completion_id": completion_id, "value": value} for value in ("up", "up", "down")]
    responses = [await platform.http.post("/v1/feedback", json=body, headers=key) for body in bodies]
    assert [response.status_code for response in responses] == [200, 200, 409]
    assert [response.json().get("duplicate") for response in responses[:2]] == [False, True]
    assert responses[2].json()["error"]["code"] == "conflicting_feedback"
    assert [event.id for event in written(platform)] == ["click-1"]


async def test_refused_feedback_names_its_field_and_leaves_no_trace(platform: Any) -> None:
    mine, other = await answered(platform), await answered(platform, session="other")
    token = ids.CompletionToken(ids.uuid7(), b"s" * 16, b"r" * 8, completions.Arm.STABLE, randomised=True)
    foreign = ids.mint(token, "rival", platform.secrets.signing)
    ref = {"completion_id": mine}
    refused: list[tuple[dict[str, Any], int, str, str | None]] = [
        ({"completion_id": mine[:-3] + "AAA", "value": "up"}, 400, "forged_completion_id", "completion_id"),
        ({"completion_id": foreign, "value": "up"}, 400, "forged_completion_id", "completion_id"),
        ({"completion_id": "", "value": "up"}, 400, "invalid_field", "completion_id"),
        ({"kind": "comparison", "preferred": ref, "rejected": ref}, 400, "invalid_field", "rejected"),
        (
            {"kind": "comparison", "preferred": ref, "rejected": {"completion_id": other}},
            400,
            "invalid_field",
            "rejected.completion_id",
        ),
        (ref | {"value": "maybe"}, 400, "invalid_field", "value"),
        (ref | {"value": "up", "choice": 200}, 400, "invalid_field", "choice"),
        (ref | {"value": "up", "surface": "s" * 65}, 400, "invalid_field", "surface"),
        (ref | {"value": "up", "id": "i" * 129}, 400, "invalid_field", "id"),
        (ref | {"value": "up", "rater": "r" * 257}, 400, "invalid_field", "rater"),
        (ref | {"value": "up", "rater": {"network": "here"}}, 400, "invalid_field", "rater.network"),
        (ref | {"value": "up", "occurred_at": "2999-01-01T00:00:00Z"}, 400, "invalid_field", "occurred_at"),
        (ref | {"value": "up", "mood": "good"}, 400, "unsupported_parameter", "mood"),
        (ref | {"kind": "rating", "stars": 6, "scale": 5}, 400, "invalid_field", "stars"),
        (ref | {"kind": "edit"}, 400, "invalid_field", "corrected"),
        (ref | {"kind": "ranking", "items": [{"rank": 1}, {"rank": 2}]}, 400, "invalid_field", "items"),
        (ref | {"kind": "retraction"}, 400, "invalid_field", "supersedes"),
        (ref | {"value": "up", "id": "f", "supersedes": ["f"]}, 400, "invalid_field", "supersedes"),
    ]
    for body, status, code, field in refused:
        response = await vote(platform, **body)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (status, code, field), body
        assert error["message"].endswith(".")
    assert platform.written() == 0


async def test_a_feedback_service_that_is_away_is_no_yes(platform: Any, settings_of: dict[str, Any]) -> None:
    completion_id = await answered(platform)
    await platform.feedback_serving.aclose()
    response = await vote(platform, completion_id=completion_id, value="up")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert platform.written() == 0


async def test_a_log_that_is_away_is_a_503_before_the_gateways_own_deadline(
    platform: Any, settings_of: dict[str, Any]
) -> None:
    completion_id = await answered(platform)
    log = pathlib.Path(settings_of["log_url"].removeprefix("sqlite://"))
    with log.with_name(f"{log.name}.write").open("rb") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # another process's turn to write, which does not end
        asked = time.monotonic()
        response = await vote(platform, completion_id=completion_id, value="up", id="v1")
        took = time.monotonic() - asked
    assert (response.status_code, response.json()["error"]["code"]) == (503, "log_unavailable")
    assert response.headers["retry-after"] == "1"
    assert took < settings.GatewaySettings.model_fields["feedback_deadline_s"].default
    assert platform.written() == 0
    assert (await vote(platform, completion_id=completion_id, value="up", id="v1")).status_code == 200


@pytest.mark.parametrize("key", ["", "Bearer", "Bearer tt-guess", "Basic abc", "bearer \xff"])
async def test_without_a_valid_key_nothing_is_answered(platform: Any, key: str) -> None:
    headers = {"authorization": key.encode("latin-1")} if key else {}
    async with httpx.AsyncClient(base_url=platform.http.base_url) as stranger:
        for method, path in (("POST", "/v1/chat/completions"), ("POST", "/v1/feedback"), ("GET", "/v1/models")):
            response = await stranger.request(method, path, headers=headers)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"
    assert platform.stable.asked + platform.candidate.asked == []


async def test_the_key_itself_is_nowhere_in_what_the_gateway_keeps(platform: Any) -> None:
    assert platform.secrets.api_keys[0].sha256 == hashlib.sha256(platform.api_key.encode()).hexdigest()
    assert platform.api_key not in repr(platform.secrets)
