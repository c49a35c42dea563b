"""Which requests a policy answers, and what their absent parameters mean.

Called by `policy.answering`, first thing. Every refusal names the field and the remedy.
"""

import dataclasses
import secrets

from trimtab.core import completions, errors, text
from trimtab.policy import engine

MAX_MESSAGE_BYTES = 64 * 1024
MAX_STOPS = 16
MAX_STOP_BYTES = 256
MAX_TOP_LOGPROBS = 20
_RANGES = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}


def check(request: completions.CompleteRequest, line: str, facts: engine.Facts) -> completions.Assignment:
    """The request's assignment, when all of the request can be honoured. `line`: empty, or the only one served."""
    assignment = request.assignment
    if assignment is None:
        raise errors.InvalidField("assignment", "is missing", "send the request to the gateway, which assigns it")
    if not assignment.completion_id:
        raise errors.InvalidField("assignment.completion_id", "is empty", "send the id the gateway minted")
    if line and assignment.context.line != line:
        raise errors.InvalidField(
            "assignment.context.line", f"is {assignment.context.line!r}", f"this process serves {line!r}"
        )
    if request.n > facts.max_choices:
        raise errors.InvalidField("n", f"is {request.n}", f"ask for 1 to {facts.max_choices} choices")
    _check_messages(request.messages)
    _check_sampling(request.sampling, facts)
    return assignment


def _check_messages(messages: tuple[text.Message, ...]) -> None:
    if not messages:
        raise errors.InvalidField("messages", "is empty", "send the conversation so far")
    for position, message in enumerate(messages):
        field = f"messages[{position}].content"
        if isinstance(message.content.body, text.Ciphertext):
            raise errors.InvalidField(field, "is sealed", "send it in the clear")
        if not message.content.body.strip():
            raise errors.InvalidField(field, "is empty", "send text")
        size = len(message.content.body.encode())
        if size > MAX_MESSAGE_BYTES:
            raise errors.InvalidField(field, f"has {size} bytes", f"send at most {MAX_MESSAGE_BYTES}")
    if messages[-1].role is not text.Role.USER:
        field = f"messages[{len(messages) - 1}].role"
        raise errors.InvalidField(field, f"is {messages[-1].role.value!r}", "end with a message of the user")


def _check_sampling(asked: completions.Sampling, facts: engine.Facts) -> None:
    absent = completions.Sampling()
    for name in facts.unsupported:
        if getattr(asked, name) != getattr(absent, name):
            raise errors.UnsupportedParameter(name, f"the engine {facts.name!r} has no such parameter")
    for name, (low, high) in _RANGES.items():
        value = getattr(asked, name)
        if value is not None and not low <= value <= high:
            raise errors.InvalidField(name, f"is {value:g}", f"send a number from {low:g} to {high:g}")
    if asked.top_p == 0.0:
        raise errors.InvalidField("top_p", "is 0", "send a number above 0 and at most 1")
    if asked.max_tokens == 0:
        raise errors.InvalidField("max_tokens", "is 0", "ask for at least one token")
    if asked.top_logprobs > MAX_TOP_LOGPROBS:
        raise errors.InvalidField("top_logprobs", f"is {asked.top_logprobs}", f"ask for at most {MAX_TOP_LOGPROBS}")
    if asked.top_logprobs and not asked.logprobs:
        raise errors.InvalidField("top_logprobs", "is set without `logprobs`", "set `logprobs` to true")
    _check_stop(asked.stop)


def _check_stop(stop: tuple[str, ...]) -> None:
    if len(stop) > MAX_STOPS:
        raise errors.InvalidField("stop", f"holds {len(stop)} strings", f"send at most {MAX_STOPS}")
    for position, item in enumerate(stop):
        if not 0 < len(item.encode()) <= MAX_STOP_BYTES:
            field = f"stop[{position}]"
            raise errors.InvalidField(field, f"has {len(item.encode())} bytes", f"send 1 to {MAX_STOP_BYTES}")


def resolve(asked: completions.Sampling, prompt_tokens: int, facts: engine.Facts) -> completions.Sampling:
    """What is used for what was asked: absent parameters from the profile, a seed, and as many tokens as there is room.

    PromptTooLong when no token fits after the prompt.
    """
    room = facts.context_tokens - prompt_tokens
    if room < 1:
        raise errors.PromptTooLong(prompt_tokens, facts.context_tokens)
    given = {
        field.name: value
        for field in dataclasses.fields(asked)
        if (value := getattr(asked, field.name)) is not None and value != ()
    }
    resolved = dataclasses.replace(facts.defaults, **given)
    seed = secrets.randbits(62) if resolved.seed is None else resolved.seed
    return dataclasses.replace(resolved, seed=seed, max_tokens=min(resolved.max_tokens or room, room))
