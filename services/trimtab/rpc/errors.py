"""The gRPC door's error table: which status each core error has, and the rich status it travels in.

Called by `rpc.interceptors` only. The inverse is `trimtab_client.errors` (and `wire.calls` for processes); a test holds
the two together. HTTP's table is in `gateway.errors`.
"""

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from trimtab.core import errors

DOMAIN = "trimtab"
DETAILS_KEY = "grpc-status-details-bin"
# A negative number of milliseconds tells a client's retry policy to give up (gRPC proposal A6).
PUSHBACK_KEY, NO_RETRY = "grpc-retry-pushback-ms", "-1"
# Trailers hold 8 KiB in all, and the sentence travels three times, once percent-encoded.
MAX_SENTENCE_BYTES = 1024
RETRY_AFTER_S = 0.5

_STATUS: dict[type[errors.TrimtabError], grpc.StatusCode] = {
    errors.InvalidField: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnsupportedParameter: grpc.StatusCode.INVALID_ARGUMENT,
    errors.PromptTooLong: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ForgedCompletionId: grpc.StatusCode.INVALID_ARGUMENT,
    errors.MalformedRecord: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ForeignTenant: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotAllowed: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotAuthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.UnknownModel: grpc.StatusCode.NOT_FOUND,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.ConflictingFeedback: grpc.StatusCode.ALREADY_EXISTS,
    errors.SealedText: grpc.StatusCode.FAILED_PRECONDITION,
    errors.WrongState: grpc.StatusCode.FAILED_PRECONDITION,
    errors.StaleGeneration: grpc.StatusCode.ABORTED,
    errors.LogUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.ServiceUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.NotBuiltYet: grpc.StatusCode.UNIMPLEMENTED,
    errors.ArtifactCorrupt: grpc.StatusCode.DATA_LOSS,
    errors.InternalFault: grpc.StatusCode.INTERNAL,
}
TABLE: dict[type[errors.TrimtabError], tuple[grpc.StatusCode, str]] = {
    kind: (status, errors.reason_of(kind)) for kind, status in _STATUS.items()
}
_RETRY = frozenset({errors.LogUnavailable, errors.ServiceUnavailable, errors.Overloaded})
# What took a deadline of its own to fail: tried again inside the same call, it would outlast the caller's.
_TRIED_LONG = frozenset({errors.LogUnavailable})


def kind_of(error: errors.TrimtabError) -> type[errors.TrimtabError]:
    """The class of TABLE that an error travels as: its own, or the nearest it descends from."""
    return next((kind for kind in type(error).__mro__ if kind in TABLE), errors.InternalFault)


def trailers(error: errors.TrimtabError) -> tuple[tuple[str, str | bytes], ...]:
    """What a failed call ends with: the rich status, and for some a word to retry policies not to try again."""
    details = (DETAILS_KEY, rich_status(error).SerializeToString())
    return (details, (PUSHBACK_KEY, NO_RETRY)) if kind_of(error) in _TRIED_LONG else (details,)


def rich_status(error: errors.TrimtabError) -> status_pb2.Status:
    """google.rpc.Status with ErrorInfo, and BadRequest or RetryInfo where they apply."""
    kind = kind_of(error)
    code, reason = TABLE[kind]
    sentence = _fitting(str(error))
    details = {key: _fitting(value, 256) for key, value in error.details.items()}
    parts: list[error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo] = [
        error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=details)
    ]
    if code is grpc.StatusCode.INVALID_ARGUMENT and "field" in details:
        violation = error_details_pb2.BadRequest.FieldViolation(field=details["field"], description=sentence)
        parts.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if kind in _RETRY:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(RETRY_AFTER_S * 1e9))
        parts.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return status_pb2.Status(code=code_pb2.Code.Value(code.name), message=sentence, details=[_any(p) for p in parts])


def _any(part: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(part)
    return packed


def _fitting(text: str, limit: int = MAX_SENTENCE_BYTES) -> str:
    """The text as valid UTF-8 of at most `limit` bytes."""
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= limit:
        return raw.decode()
    return raw[: limit - 3].decode("utf-8", "ignore") + "…"
