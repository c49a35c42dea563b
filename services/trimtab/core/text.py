"""Text, messages and the context every record carries."""

import dataclasses
import enum

from trimtab.core import errors


@dataclasses.dataclass(frozen=True, slots=True)
class Ciphertext:
    """Text sealed under a key that erasure can destroy."""

    data: bytes
    key_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Text:
    """Text in the clear (str) or sealed (Ciphertext)."""

    body: str | Ciphertext

    def read(self) -> str:
        """The text in the clear; SealedText when it is sealed and no key is at hand."""
        if isinstance(self.body, Ciphertext):
            raise errors.SealedText(key_id=self.body.key_id)
        return self.body


class Role(enum.StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: Text


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """Who a record belongs to and what may be done with it.

    session_hash: 16 bytes, keyed. subject_hash: 16 bytes, keyed, or empty. store: consent to keep the text.
    """

    tenant: str
    line: str
    session_hash: bytes = b""
    subject_hash: bytes = b""
    store: bool = True
    traceparent: str = ""
    config_digest: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ResponseRef:
    """One answer: a completion and which of its choices."""

    completion_id: str
    choice: int = 0
