"""What the HTTP door reads from a chat request, and what it refuses by name."""

import json
from typing import Any

import pytest

from trimtab.core import completions, errors, text
from trimtab.gateway import errors as gateway_errors
from trimtab.gateway import fields, openai

UNSUPPORTED: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "functions": [],
    "function_call": "none",
    "response_format": {"type": "json_object"},
    "logit_bias": {"50256": -100},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "prediction": {"type": "content", "content": "x"},
    "reasoning_effort": "low",
    "verbosity": "low",
    "service_tier": "auto",
    "web_search_options": {},
    "prompt_cache_key": "k",
    "best_of": 3,
    "anything_new": 1,
}


def read(**body: Any) -> openai.ChatRequest:
    base = {"model": "support", "messages": [{"role": "user", "content": "Hello"}]}
    return openai.read_chat(fields.read_object(json.dumps(base | body).encode()), "")


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_parameter_that_cannot_be_honoured_is_refused_by_name(name: str) -> None:
    with pytest.raises(errors.UnsupportedParameter) as refused:
        read(**{name: UNSUPPORTED[name]})
    assert refused.value.field == name
    assert name in str(refused.value)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_null_is_the_same_as_leaving_a_parameter_out(name: str) -> None:
    assert read(**{name: None}).complete.model == "support"


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "messages[0].content[0]"),
        ({"role": "tool", "content": "4", "tool_call_id": "c"}, "messages[0].role"),
        ({"role": "user", "content": "x", "name": "Ann"}, "messages[0].name"),
        ({"role": "assistant", "content": "x", "tool_calls": []}, "messages[0].tool_calls"),
    ],
)
def test_message_parts_that_are_not_text_are_refused_by_name(message: dict[str, Any], field: str) -> None:
    with pytest.raises(errors.UnsupportedParameter) as refused:
        read(messages=[message])
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"seed": 2**63}, "seed"),
        ({"presence_penalty": -2.5}, "presence_penalty"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"metadata": {"session_id": 7}}, "metadata.session_id"),
        ({"metadata": {"session_id": "s" * 257}}, "metadata.session_id"),
        ({"metadata": {"segment": "mobile de"}}, "metadata.segment"),
        ({"metadata": {"segment": "s" * 65}}, "metadata.segment"),
        ({"metadata": {"segment": "größe"}}, "metadata.segment"),
        ({"metadata": {"segment": 7}}, "metadata.segment"),
        ({"messages": {}}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"user": "u" * 257}, "user"),
        ({"model": 5}, "model"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_names_its_field(body: dict[str, Any], field: str) -> None:
    with pytest.raises(errors.InvalidField) as refused:
        read(**body)
    assert refused.value.field == field


def test_all_sampling_parameters_arrive_as_sent() -> None:
    asked = read(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        max_completion_tokens=12,
        stop="\n",
        seed=-3,
        presence_penalty=1,
        frequency_penalty=-1.5,
        logprobs=True,
        top_logprobs=5,
        n=3,
    ).complete
    assert asked.n == 3
    assert asked.sampling == completions.Sampling(0.5, 0.9, 40, 12, ("\n",), -3, 1.0, -1.5, True, 5)


def test_text_parts_are_joined_and_developer_means_system() -> None:
    asked = read(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "He"}, {"type": "text", "text": "llo"}]},
            {"role": "assistant", "content": "Hi", "refusal": None, "function_call": None, "audio": None},
        ]
    ).complete
    assert asked.messages == (
        text.Message(text.Role.SYSTEM, text.Text("Be brief.")),
        text.Message(text.Role.USER, text.Text("Hello")),
        text.Message(text.Role.ASSISTANT, text.Text("Hi")),
    )


def test_the_session_is_the_header_then_metadata_and_the_person_is_the_safety_identifier_then_user() -> None:
    body = {
        "model": "m",
        "messages": [],
        "metadata": {"session_id": "from metadata"},
        "user": "u",
        "safety_identifier": "s",
    }
    with_header = openai.read_chat(fields.Fields(dict(body)), "from header").complete
    assert (with_header.session_id, with_header.user) == ("from header", "s")
    without = openai.read_chat(fields.Fields(dict(body)), "").complete
    assert without.session_id == "from metadata"
    assert read(user="u").complete.user == "u"


@pytest.mark.parametrize("segment", ["", "mobile-de", "A.b_c:9", "s" * 64])
def test_a_segment_is_named_in_the_metadata(segment: str) -> None:
    assert read(metadata={"segment": segment, "other": "anything"}).complete.segment == segment
    assert read().complete.segment == ""


@pytest.mark.parametrize("header", ["s" * 257, "zo\xeb", "a\tb"])
def test_a_session_header_that_could_be_read_two_ways_is_refused(header: str) -> None:
    with pytest.raises(errors.InvalidField) as refused:
        openai.read_chat(fields.Fields({}), header)
    assert refused.value.field == "x-trimtab-session"


def test_store_is_unset_unless_said() -> None:
    assert read().complete.store is None
    assert read(store=False).complete.store is False


def test_stream_options_are_read_only_with_stream() -> None:
    chat = read(stream=True, stream_options={"include_usage": True})
    assert chat.stream
    assert chat.include_usage
    with pytest.raises(errors.UnsupportedParameter) as refused:
        read(stream=True, stream_options={"include_obfuscation": True})
    assert refused.value.field == "stream_options.include_obfuscation"


def test_half_a_character_is_refused_with_its_field() -> None:
    raw = b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}'
    with pytest.raises(errors.InvalidField) as refused:
        openai.read_chat(fields.read_object(raw), "")
    assert refused.value.field == "messages[0].content"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b'{"a": NaN}',
        b"\xff\xfe",
        b'{"a": "\xc3("}',
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
    ids=["empty", "open", "list", "string", "nan", "utf16", "bad utf8", "deep", "huge number"],
)
def test_a_body_that_is_no_json_object_is_one_error(raw: bytes) -> None:
    with pytest.raises(gateway_errors.MalformedBody):
        fields.read_object(raw)
