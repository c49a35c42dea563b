"""The HTTP door: which status and OpenAI error type each error has, and the error object it travels in.

Called by `gateway.routes` and `gateway.streaming`. gRPC's table is in `rpc.errors`. Errors that only HTTP can cause are
declared here.
"""

import dataclasses
from typing import Any

from trimtab.core import errors


class MalformedBody(errors.InvalidField):
    def __init__(self, problem: str) -> None:
        super().__init__("body", problem, "send a JSON object in UTF-8")


class BodyTooLarge(errors.InvalidField):
    def __init__(self, limit: int) -> None:
        super().__init__("body", f"has more than {limit} bytes", "shorten the conversation")


class WrongContentType(errors.InvalidField):
    def __init__(self, given: str) -> None:
        super().__init__("content-type", f"is {given[:80]!r}", "send application/json")


@dataclasses.dataclass(frozen=True, slots=True)
class _Answer:
    """retry_after_s: sent as `Retry-After` where trying again is safe and can help."""

    status: int
    type: str
    retry_after_s: int | None = None


_INVALID, _SERVER = "invalid_request_error", "server_error"
TABLE: dict[type[errors.TrimtabError], _Answer] = {
    errors.InvalidField: _Answer(400, _INVALID),
    errors.UnsupportedParameter: _Answer(400, _INVALID),
    errors.PromptTooLong: _Answer(400, _INVALID),
    errors.ForgedCompletionId: _Answer(400, _INVALID),
    errors.MalformedRecord: _Answer(400, _INVALID),
    MalformedBody: _Answer(400, _INVALID),
    errors.NotAuthenticated: _Answer(401, "authentication_error"),
    errors.ForeignTenant: _Answer(403, "permission_error"),
    errors.NotAllowed: _Answer(403, "permission_error"),
    errors.UnknownModel: _Answer(404, _INVALID),
    errors.NotFound: _Answer(404, _INVALID),
    errors.ConflictingFeedback: _Answer(409, _INVALID),
    errors.WrongState: _Answer(409, _INVALID),
    errors.StaleGeneration: _Answer(409, _INVALID),
    errors.SealedText: _Answer(409, _INVALID),
    BodyTooLarge: _Answer(413, _INVALID),
    WrongContentType: _Answer(415, _INVALID),
    errors.Overloaded: _Answer(429, "rate_limit_error", retry_after_s=1),
    errors.InternalFault: _Answer(500, _SERVER),
    errors.ArtifactCorrupt: _Answer(500, _SERVER),
    errors.NotBuiltYet: _Answer(501, _INVALID),
    errors.LogUnavailable: _Answer(503, _SERVER, retry_after_s=1),
    errors.ServiceUnavailable: _Answer(503, _SERVER, retry_after_s=1),
    errors.DeadlineExceeded: _Answer(504, _SERVER),
}
# Where OpenAI has a word of its own, its clients look for that.
_CODES: dict[type[errors.TrimtabError], str] = {
    errors.UnknownModel: "model_not_found",
    errors.NotAuthenticated: "invalid_api_key",
    errors.UnsupportedParameter: "unsupported_parameter",
    errors.PromptTooLong: "context_length_exceeded",
}


def answer_to(problem: errors.TrimtabError) -> tuple[int, dict[str, str], dict[str, Any]]:
    """(status, headers, body) of an error."""
    kind = next((kind for kind in type(problem).__mro__ if kind in TABLE), errors.InternalFault)
    answer = TABLE[kind]
    headers = {} if answer.retry_after_s is None else {"retry-after": str(answer.retry_after_s)}
    if kind is errors.NotAuthenticated:
        headers["www-authenticate"] = "Bearer"
    return answer.status, headers, body_of(problem)


def body_of(problem: errors.TrimtabError) -> dict[str, Any]:
    """OpenAI's error object: `param` is the field, `code` OpenAI's word or our error's name in lower case."""
    kind = next((kind for kind in type(problem).__mro__ if kind in TABLE), errors.InternalFault)
    return {
        "error": {
            "message": str(problem),
            "type": TABLE[kind].type,
            "param": problem.details.get("field"),
            "code": _CODES.get(kind, errors.reason_of(kind).lower()),
        }
    }
