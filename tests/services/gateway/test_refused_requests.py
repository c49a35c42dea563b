"""Requests that are refused: the field and the remedy are named, no policy is asked, nothing is written."""

from typing import Any

import pytest

UNSUPPORTED = {
    "tools": [],
    "tool_choice": "none",
    "functions": [],
    "function_call": "auto",
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {}},
    "logit_bias": {},
    "modalities": ["text"],
    "audio": {},
    "prediction": {},
    "reasoning_effort": "high",
    "service_tier": "default",
    "web_search_options": {},
    "whatever": 1,
}


async def refused(platform: Any, status: int, param: str | None, **request: Any) -> dict[str, str]:
    response = await platform.http.post("/v1/chat/completions", **request)
    error: dict[str, str] = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), error
    assert platform.stable.asked + platform.candidate.asked == []
    assert platform.written() == 0
    return error


async def test_each_unsupported_parameter_is_named(platform: Any) -> None:
    for name, value in UNSUPPORTED.items():
        error = await refused(platform, 400, name, json=platform.chat(**{name: value}))
        assert error["code"] == "unsupported_parameter"
        assert f"`{name}`" in error["message"]


async def test_images_and_sounds_are_named_by_their_place(platform: Any) -> None:
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    await refused(platform, 400, "messages[0].content[1]", json=platform.chat(parts))


@pytest.mark.parametrize("content", ["", " \n", None, []])
async def test_an_empty_message_is_named(platform: Any, content: Any) -> None:
    error = await refused(platform, 400, "messages[0].content", json=platform.chat(content))
    assert error["message"] == "`messages[0].content` is empty; send text."


async def test_no_messages_and_no_model_are_named(platform: Any) -> None:
    await refused(platform, 400, "messages", json=platform.chat() | {"messages": []})
    await refused(platform, 400, "model", json=platform.chat(model=""))


@pytest.mark.parametrize("model", ["sales", "support@newest", "support@" + "c" * 64])
async def test_an_unknown_model_is_told_which_there_are(platform: Any, model: str) -> None:
    error = await refused(platform, 404, "model", json=platform.chat(model=model))
    assert error["code"] == "model_not_found"
    assert "support@candidate" in error["message"]


async def test_a_body_that_cannot_be_read_says_why(platform: Any) -> None:
    headers = {"content-type": "application/json"}
    for content, why in ((b"{", "is not JSON"), (b'{"a": "\xff"}', "is not UTF-8 (byte 7)"), (b"[]", "no JSON object")):
        error = await refused(platform, 400, "body", content=content, headers=headers)
        assert why in error["message"]
    await refused(
        platform,
        400,
        "messages[0].content",
        content=b'{"model":"support","messages":[{"role":"user","content":"\\udfff"}]}',
        headers=headers,
    )


async def test_a_body_over_the_limit_is_413_also_when_its_length_is_not_said(platform: Any) -> None:
    async def chunks() -> Any:
        for _ in range(20):
            yield b" " * 65_536

    headers = {"content-type": "application/json"}
    await refused(platform, 413, "body", json=platform.chat("x" * 1_100_000))
    await refused(platform, 413, "body", content=chunks(), headers=headers)


async def test_a_body_declared_as_something_else_is_415(platform: Any) -> None:
    error = await refused(platform, 415, "content-type", data={"model": "support"})
    assert "application/json" in error["message"]


async def test_a_path_or_method_that_is_not_here_is_json_too(platform: Any) -> None:
    for method, path, status in (("POST", "/v1/completions", 404), ("GET", "/v1/chat/completions", 405)):
        response = await platform.http.request(method, path)
        assert response.status_code == status
        assert response.json()["error"]["code"] == "unknown_url"
