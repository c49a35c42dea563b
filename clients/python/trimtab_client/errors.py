"""What can go wrong in a call: one class per reason, read from the status a service answers with.

A service says `google.rpc.ErrorInfo(reason, domain="trimtab")`; the reason picks the class. `str()` is the service's
sentence: which field, what is wrong, what to do. `Trimtab` and `AsyncTrimtab` raise these; who uses the generated stubs
over `connect` calls `from_rpc` on the `grpc.RpcError`.
"""

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import message
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "trimtab"
_DETAILS_KEY = "grpc-status-details-bin"


class TrimtabError(Exception):
    """A call failed. reason: e.g. "INVALID_FIELD"; details: its machine-readable part; retry_after_s: when told."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        details: dict[str, str] | None = None,
        status: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.details = details or {}
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def field(self) -> str:
        """The field of the request that is wrong; empty when the error is about none."""
        return self.details.get("field", "")


class InvalidField(TrimtabError):
    """A field of the request is wrong."""


class UnsupportedParameter(TrimtabError):
    """A parameter the engine cannot honour."""


class PromptTooLong(TrimtabError):
    """The prompt does not fit into the policy's context."""


class ForgedCompletionId(TrimtabError):
    """The completion id was not issued by this platform."""


class MalformedRecord(TrimtabError):
    """The service could not read the request."""


class ForeignTenant(TrimtabError):
    """The completion belongs to another tenant."""


class NotAllowed(TrimtabError):
    """Authenticated, and still not the caller's to do."""


class NotAuthenticated(TrimtabError):
    """No valid API key or token."""


class UnknownModel(TrimtabError):
    """No such model is served."""


class NotFound(TrimtabError):
    """There is no such thing."""


class ConflictingFeedback(TrimtabError):
    """The feedback id was acknowledged before with another body."""


class SealedText(TrimtabError):
    """The text is sealed under a key that is not at hand."""


class WrongState(TrimtabError):
    """The thing is not in a state that allows the act."""


class StaleGeneration(TrimtabError):
    """A newer holder of the lease has published since."""


class LogUnavailable(TrimtabError):
    """The event log did not take the record; nothing was acknowledged, retrying the same id is safe."""


class ServiceUnavailable(TrimtabError):
    """The service, or one it needs, did not answer. Retrying is safe."""


class Overloaded(TrimtabError):
    """More work than the service takes on; retry with back-off."""


class DeadlineExceeded(TrimtabError):
    """The deadline passed first."""


class NotBuiltYet(TrimtabError):
    """Part of the interface and not of this version."""


class ArtifactCorrupt(TrimtabError):
    """An artifact's bytes are not what its manifest says."""


class InternalFault(TrimtabError):
    """A fault inside the service; its log says why."""


BY_REASON: dict[str, type[TrimtabError]] = {
    "INVALID_FIELD": InvalidField,
    "UNSUPPORTED_PARAMETER": UnsupportedParameter,
    "PROMPT_TOO_LONG": PromptTooLong,
    "FORGED_COMPLETION_ID": ForgedCompletionId,
    "MALFORMED_RECORD": MalformedRecord,
    "FOREIGN_TENANT": ForeignTenant,
    "NOT_ALLOWED": NotAllowed,
    "NOT_AUTHENTICATED": NotAuthenticated,
    "UNKNOWN_MODEL": UnknownModel,
    "NOT_FOUND": NotFound,
    "CONFLICTING_FEEDBACK": ConflictingFeedback,
    "SEALED_TEXT": SealedText,
    "WRONG_STATE": WrongState,
    "STALE_GENERATION": StaleGeneration,
    "LOG_UNAVAILABLE": LogUnavailable,
    "SERVICE_UNAVAILABLE": ServiceUnavailable,
    "OVERLOADED": Overloaded,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "NOT_BUILT_YET": NotBuiltYet,
    "ARTIFACT_CORRUPT": ArtifactCorrupt,
    "INTERNAL_FAULT": InternalFault,
}
# Statuses that gRPC itself gives, without a service's ErrorInfo: reason and sentence.
_BY_STATUS: dict[grpc.StatusCode, tuple[str, str]] = {
    grpc.StatusCode.UNAVAILABLE: ("SERVICE_UNAVAILABLE", "The service cannot be reached"),
    # the server went away; a call that its caller cancels raises CancelledError instead
    grpc.StatusCode.CANCELLED: ("SERVICE_UNAVAILABLE", "The service ended the call"),
    grpc.StatusCode.DEADLINE_EXCEEDED: ("DEADLINE_EXCEEDED", "The call's deadline passed before the service answered"),
    grpc.StatusCode.UNIMPLEMENTED: ("NOT_BUILT_YET", "The service has no such method"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: ("OVERLOADED", "The call is more than the channel takes"),
}
_UNEXPECTED = ("INTERNAL_FAULT", "The call failed in a way that no service of Trimtab answers")


def invalid_field(field: str, problem: str, remedy: str) -> InvalidField:
    """An InvalidField that is found before anything is sent. `problem` and `remedy` are clauses without a full stop."""
    return InvalidField(
        f"`{field}` {problem}; {remedy}.",
        reason="INVALID_FIELD",
        details={"field": field},
        status=grpc.StatusCode.INVALID_ARGUMENT,
    )


def from_rpc(error: grpc.RpcError) -> TrimtabError:
    """The typed exception for a failed call, sync or async."""
    status = _rich_status(error)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for part in status.details:
        part.Unpack(info)
        part.Unpack(retry)
    if info.domain == DOMAIN:
        reason, sentence = info.reason, status.message
    else:
        reason, what = _BY_STATUS.get(error.code(), _UNEXPECTED)
        sentence = f"{what} ({error.code().name}: {error.details() or 'no reason given'})."
    return BY_REASON.get(reason, TrimtabError)(
        sentence,
        reason=reason,
        details=dict(info.metadata) if info.domain == DOMAIN else {},
        status=error.code(),
        retry_after_s=retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None,
    )


def _rich_status(error: grpc.RpcError) -> status_pb2.Status:
    """The google.rpc.Status in the trailers; an empty one when there is none that can be read."""
    # pairs, whatever the stubs say
    trailers: Iterable[Any] = error.trailing_metadata() or ()
    for key, value in trailers:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except message.DecodeError:
                break
    return status_pb2.Status()
