"""The body of `POST /v1/chat/completions`, read into what the platform understands.

Called by `gateway.routes`. Shape and ranges are judged here, meaning in `gateway.answering`. Whatever OpenAI's API has
and this platform cannot honour is refused by name: ignoring it would be a lie. What goes back is in `gateway.shapes`.
"""

import dataclasses
from typing import Any

from trimtab.core import completions, errors, text
from trimtab.gateway import answering, fields

MAX_CHOICES = 128
MAX_STOP = 4
MAX_SESSION = 256
_INT64 = 2**63
_UINT32_MAX = 2**32 - 1
_ROLES = {
    "system": text.Role.SYSTEM,
    "developer": text.Role.SYSTEM,  # OpenAI's newer name of the same thing
    "user": text.Role.USER,
    "assistant": text.Role.ASSISTANT,
}
_NO_TOOLS = "this platform calls no tools"
_WHY_NOT = {
    "tools": _NO_TOOLS,
    "tool_choice": _NO_TOOLS,
    "parallel_tool_calls": _NO_TOOLS,
    "functions": _NO_TOOLS,
    "function_call": _NO_TOOLS,
    "tool_calls": _NO_TOOLS,
    "tool_call_id": _NO_TOOLS,
    "web_search_options": _NO_TOOLS,
    "modalities": "policies read and write text only",
    "audio": "policies read and write text only",
    "logit_bias": "no engine here applies it",
    "prediction": "no engine here uses it",
    "reasoning_effort": "policies here do not reason in a hidden channel",
    "verbosity": "no policy here takes it",
    "service_tier": "there is one tier",
    "name": "chat templates here have no place for it",
}


@dataclasses.dataclass(frozen=True, slots=True)
class ChatRequest:
    """What to complete and how to send it. `include_usage`: a streamed answer ends with a usage chunk."""

    complete: completions.CompleteRequest
    stream: bool
    include_usage: bool


def read_chat(body: fields.Fields, session_header: str) -> ChatRequest:
    """The request; InvalidField or UnsupportedParameter names the first parameter that cannot be honoured."""
    _check_response_format(body)
    metadata = _metadata(body)
    session_id = _session(metadata, session_header)
    answering.check_segment("metadata.segment", metadata.get("segment", ""))
    stream = body.flag("stream") or False
    include_usage = _include_usage(body, stream)
    n = body.integer("n", 1, MAX_CHOICES)
    person = body.text("safety_identifier", MAX_SESSION)
    user = body.text("user", MAX_SESSION)
    request = completions.CompleteRequest(
        model=body.text("model", MAX_SESSION),
        messages=read_messages(body.items("messages"), "messages"),
        sampling=_sampling(body),
        n=1 if n is None else n,
        session_id=session_id,
        user=person or user,
        store=body.flag("store"),
        segment=metadata.get("segment", ""),
    )
    refuse_left(body)
    return ChatRequest(request, stream, include_usage)


def refuse_left(body: fields.Fields) -> None:
    for name in body.left():
        raise errors.UnsupportedParameter(name, _WHY_NOT.get(name.rpartition(".")[2], "it is not known here"))


def _metadata(body: fields.Fields) -> dict[str, str]:
    """With OpenAI's limits; empty when absent."""
    metadata = body.take("metadata")
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or len(metadata) > 16:
        raise errors.InvalidField("metadata", "is no table of up to 16 strings", "send an object of strings")
    for key, value in metadata.items():
        fields.as_text(key, "metadata")
        if len(fields.as_text(value, f"metadata.{key}")) > 512 or len(key) > 64:
            raise errors.InvalidField(
                f"metadata.{key[:64]}", "is too long", "send keys to 64, values to 512 characters"
            )
    return metadata


def _session(metadata: dict[str, str], header: str) -> str:
    """The header, else `metadata.session_id`."""
    if header and not (len(header) <= MAX_SESSION and header.isascii() and header.isprintable()):
        raise errors.InvalidField(
            "x-trimtab-session", "is no usable id", f"send up to {MAX_SESSION} printable ASCII characters"
        )
    session_id = metadata.get("session_id", "")
    if len(session_id) > MAX_SESSION:
        raise errors.InvalidField("metadata.session_id", "is too long", f"send at most {MAX_SESSION} characters")
    return header or session_id


def _include_usage(body: fields.Fields, stream: bool) -> bool:
    options = body.table("stream_options")
    if options is None:
        return False
    if not stream:
        raise errors.InvalidField("stream_options", "is set without `stream`", "set `stream` to true or leave it out")
    include_usage = options.flag("include_usage") or False
    refuse_left(options)
    return include_usage


def _check_response_format(body: fields.Fields) -> None:
    response_format = body.table("response_format")
    if response_format is None:
        return
    if response_format.text("type") != "text":
        raise errors.UnsupportedParameter("response_format", "policies here write free text only")
    refuse_left(response_format)


def _sampling(body: fields.Fields) -> completions.Sampling:
    logprobs = body.flag("logprobs") or False
    top_logprobs = body.integer("top_logprobs", 0, 20) or 0
    if top_logprobs and not logprobs:
        raise errors.InvalidField("top_logprobs", "is set without `logprobs`", "set `logprobs` to true")
    top_p = body.number("top_p", 0, 1)
    if top_p == 0:
        raise errors.InvalidField("top_p", "is 0", "send a number above 0; `temperature` 0 is greedy")
    return completions.Sampling(
        temperature=body.number("temperature", 0, 2),
        top_p=top_p,
        top_k=body.integer("top_k", 0, _UINT32_MAX),  # not OpenAI's, but every open engine's
        max_tokens=_max_tokens(body),
        stop=_stop(body),
        seed=body.integer("seed", -_INT64, _INT64 - 1),
        presence_penalty=body.number("presence_penalty", -2, 2),
        frequency_penalty=body.number("frequency_penalty", -2, 2),
        logprobs=logprobs,
        top_logprobs=top_logprobs,
    )


def _max_tokens(body: fields.Fields) -> int | None:
    old = body.integer("max_tokens", 1, _UINT32_MAX)
    new = body.integer("max_completion_tokens", 1, _UINT32_MAX)
    if old is not None and new is not None and old != new:
        raise errors.InvalidField("max_tokens", "differs from `max_completion_tokens`", "send one of the two")
    return old if new is None else new


def _stop(body: fields.Fields) -> tuple[str, ...]:
    value = body.take("stop")
    if value is None:
        return ()
    given = value if isinstance(value, list) else [value]
    stops = tuple(fields.as_text(item, "stop") for item in given)
    if len(stops) > MAX_STOP or "" in stops:
        raise errors.InvalidField("stop", "is no list of stop strings", f"send up to {MAX_STOP} non-empty strings")
    return stops


def read_messages(items: list[Any], where: str) -> tuple[text.Message, ...]:
    """A conversation: `{"role", "content"}` each, as OpenAI spells them."""
    return tuple(_message(item, f"{where}[{position}]") for position, item in enumerate(items))


def _message(item: Any, where: str) -> text.Message:
    message = fields.as_fields(item, where)
    role = message.text("role")
    if role in {"tool", "function"}:
        raise errors.UnsupportedParameter(f"{where}.role", _NO_TOOLS)
    if role not in _ROLES:
        raise errors.InvalidField(f"{where}.role", f"is {role[:40]!r}", f"send one of {', '.join(_ROLES)}")
    content = message.take("content")
    refuse_left(message)
    return text.Message(_ROLES[role], text.Text(_content(content, f"{where}.content")))


def _content(value: Any, where: str) -> str:
    """A string, or the text parts of a list joined; a part of another type is refused by name."""
    if isinstance(value, list):
        return "".join(_part(part, f"{where}[{position}]") for position, part in enumerate(value))
    return "" if value is None else fields.as_text(value, where)


def _part(item: Any, where: str) -> str:
    part = fields.as_fields(item, where)
    kind = part.text("type")
    if kind != "text":
        raise errors.UnsupportedParameter(where, f"it is of type {kind[:40]!r}, and policies read text only")
    content = part.text("text")
    refuse_left(part)
    return content
