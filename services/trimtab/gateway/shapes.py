"""What goes back over HTTP, as OpenAI spells it: completion objects, stream chunks, model lists.

Called by `gateway.routes` and `gateway.streaming`. Pure; what comes in is in `gateway.openai`.
"""

import dataclasses
from typing import Any

from trimtab.core import completions

FINGERPRINT_CHARS = 12


def fingerprint(policy_id: str) -> str:
    """The start of the policy's id: enough to ask for it again as `line@<prefix>`."""
    return policy_id[:FINGERPRINT_CHARS]


def completion(model: str, answer: completions.CompleteResponse, *, with_logprobs: bool) -> dict[str, Any]:
    """A `chat.completion` object."""
    made = answer.completion
    return {
        "id": made.id,
        "object": "chat.completion",
        "created": int(made.created_at.timestamp()),
        "model": model,
        "system_fingerprint": fingerprint(made.policy_id),
        "choices": [_choice(response, with_logprobs) for response in made.responses],
        "usage": usage(answer.usage),
    }


def _choice(response: completions.Response, with_logprobs: bool) -> dict[str, Any]:
    return {
        "index": response.choice,
        "message": {"role": "assistant", "content": response.text.read(), "refusal": None},
        "logprobs": logprobs(response) if with_logprobs else None,
        "finish_reason": response.finish_reason,
    }


def logprobs(response: completions.Response) -> dict[str, Any]:
    """OpenAI's logprobs object: natural-log probabilities under the policy's own distribution (temperature 1)."""
    content = []
    for position, (token, logprob) in enumerate(zip(response.tokens, response.logprobs_raw, strict=True)):
        alternatives = response.top_logprobs[position].items if position < len(response.top_logprobs) else ()
        content.append(
            {
                **_token(token, logprob),
                "top_logprobs": [_token(other.token, other.logprob) for other in alternatives],
            }
        )
    return {"content": content, "refusal": None}


def _token(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def usage(counted: completions.Usage) -> dict[str, int]:
    return {
        "prompt_tokens": counted.prompt_tokens,
        "completion_tokens": counted.completion_tokens,
        "total_tokens": counted.prompt_tokens + counted.completion_tokens,
    }


@dataclasses.dataclass(slots=True)
class ChunkWriter:
    """The chunks of one streamed answer. Each choice starts with its role and ends with its finish reason."""

    completion_id: str
    model: str
    policy_id: str
    created: int
    include_usage: bool
    _opened: set[int] = dataclasses.field(default_factory=set)

    def chunks(self, event: completions.StreamCompleteResponse) -> list[dict[str, Any]]:
        """The `chat.completion.chunk` objects that say what the event says, in order."""
        made = []
        if event.choice not in self._opened:
            self._opened.add(event.choice)
            made.append(self._chunk(event.choice, {"role": "assistant", "content": "", "refusal": None}))
        if event.delta or event.detail is not None:
            listed = None if event.detail is None else logprobs(event.detail)
            made.append(self._chunk(event.choice, {"content": event.delta}, logprobs=listed))
        if event.finish_reason is not None:
            made.append(self._chunk(event.choice, {}, finish_reason=event.finish_reason))
        if event.usage is not None and self.include_usage:
            made.append(self._envelope([]) | {"usage": usage(event.usage)})
        return made

    def _chunk(self, choice: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        return self._envelope([{"index": choice, "delta": delta, "logprobs": None, "finish_reason": None} | more])

    def _envelope(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        envelope: dict[str, Any] = {
            "id": self.completion_id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": fingerprint(self.policy_id),
            "choices": choices,
        }
        return envelope | {"usage": None} if self.include_usage else envelope


def model(name: str, created: int, tenant: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": tenant}
