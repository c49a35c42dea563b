"""Errors, each named for the rule that was broken.

They carry no status codes: every door has one table (`rpc.errors`, `gateway.errors`) that maps them. `str()` is a
sentence for the person who caused it: which field, what is wrong, what to do. `reason_of` names a class on the wire;
`restore` is its inverse, for errors that come back from another process.
"""

import re
from collections.abc import Mapping


class TrimtabError(Exception):
    """A rule of Trimtab was broken. Attributes are the machine-readable part of the sentence."""

    def __init__(self, message: str, **details: str) -> None:
        super().__init__(message)
        self.details = details


class InvalidField(TrimtabError):
    """A field of the request is wrong. `problem` and `remedy` are clauses without a full stop."""

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"`{field}` {problem}; {remedy}.", field=field)
        self.field = field


class UnsupportedParameter(TrimtabError):
    """A parameter that cannot be honoured here. Silently ignoring it would be a lie."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"`{field}` cannot be honoured: {why}. Leave it out.", field=field)
        self.field = field


class PromptTooLong(TrimtabError):
    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"`messages` take {tokens} tokens and the policy's context holds {limit}; shorten the conversation "
            "or lower `max_tokens`.",
            field="messages",
        )


class ForgedCompletionId(TrimtabError):
    def __init__(self, completion_id: str) -> None:
        super().__init__(
            f"`completion_id` {completion_id[:96]!r} was not issued by this platform; send the `id` of a chat "
            "completion unchanged.",
            field="completion_id",
        )


class ForeignTenant(TrimtabError):
    """The id is genuine and belongs to somebody else. Says no more than a forged one would need."""

    def __init__(self) -> None:
        super().__init__(
            "`completion_id` does not belong to this API key's tenant; use the key the completion was made with.",
            field="completion_id",
        )


class UnknownModel(TrimtabError):
    def __init__(self, model: str, known: tuple[str, ...] = ()) -> None:
        listing = f" Known here: {', '.join(known)}." if known else ""
        super().__init__(f"`model` {model!r} is not served.{listing} `GET /v1/models` lists them.", field="model")


class NotFound(TrimtabError):
    def __init__(self, what: str, name: str) -> None:
        super().__init__(f"There is no {what} {name!r}.", what=what, name=name)


class NotAuthenticated(TrimtabError):
    def __init__(self, remedy: str = "send `Authorization: Bearer <API key>`") -> None:
        super().__init__(f"The request carries no valid API key; {remedy}.")


class NotAllowed(TrimtabError):
    """Authenticated, and still not this caller's to do."""


class ConflictingFeedback(TrimtabError):
    def __init__(self, feedback_id: str) -> None:
        super().__init__(
            f"Feedback {feedback_id!r} was already acknowledged with another body; send an amendment that names it "
            "in `supersedes`.",
            field="id",
        )


class SealedText(TrimtabError):
    def __init__(self, key_id: str) -> None:
        super().__init__(f"The text is sealed under key {key_id!r}, which is not at hand.", key_id=key_id)


class LogUnavailable(TrimtabError):
    """The event log did not take the record in time. Nothing was acknowledged; retrying the same id is safe."""


class ServiceUnavailable(TrimtabError):
    """A service this one needs did not answer. Retrying is safe."""


class Overloaded(TrimtabError):
    """More work than this process takes on. Retry with back-off."""


class DeadlineExceeded(TrimtabError):
    """The caller's deadline passed first."""


class NotBuiltYet(TrimtabError):
    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is part of the interface and not built yet in this version.")


class WrongState(TrimtabError):
    """The thing exists and is not in a state that allows the act; the sentence says which it is in."""


class StaleGeneration(TrimtabError):
    """Somebody with a newer lease has published since: this writer is fenced off."""

    def __init__(self, held: int, seen: int) -> None:
        super().__init__(
            f"Generation {held} is fenced off: {seen} has published since.", held=str(held), seen=str(seen)
        )


class ArtifactCorrupt(TrimtabError):
    """An artifact's bytes are not what its manifest says, or are of a kind that is never loaded."""


class MalformedRecord(TrimtabError):
    """Bytes from the log or the network that can never be read, however often one tries."""


class InternalFault(TrimtabError):
    """A fault of ours in the process that answers; its log has the traceback, the caller gets no more than this."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} failed inside; the log of the process that answered says why.")


def reason_of(kind: type[TrimtabError]) -> str:
    """The name of an error class on the wire: `InvalidField` is "INVALID_FIELD"."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).upper()


def restore(reason: str, message: str, details: Mapping[str, str]) -> TrimtabError | None:
    """The error that another process named so, with its sentence as it was; None for a reason not known here."""
    for kind in TrimtabError.__subclasses__():
        if reason_of(kind) == reason:
            # not through the constructor: it would build another sentence around this one
            error = kind.__new__(kind, message)
            error.details = dict(details)
            if isinstance(error, InvalidField | UnsupportedParameter):
                error.field = details.get("field", "")
            return error
    return None
