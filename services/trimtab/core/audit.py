"""What operators did, what is to be forgotten, what could not be handled."""

import dataclasses
import datetime
import enum

from trimtab.core import text


@dataclasses.dataclass(frozen=True, slots=True)
class AuditRecord:
    """The record on topic `audit`. act: e.g. "release.force"; target: a release, model or line."""

    id: str
    context: text.Context
    at: datetime.datetime
    actor: str
    act: str
    target: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Erasure:
    """The record on topic `erasures`; the context's subject_hash names whom to forget."""

    id: str
    context: text.Context
    requested_at: datetime.datetime
    actor: str


@dataclasses.dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record on topic `deadletter`: the bytes, where they stood, who refused them and why.

    value_bytes: how large the value was, where it was too large to be carried: then `value` is its beginning. 0 where
    everything is whole.
    """

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: dict[str, bytes]
    consumer: str
    reason: str
    at: datetime.datetime
    value_bytes: int = 0


class Settlement(enum.StrEnum):
    REPLAYED = "replayed"
    DROPPED = "dropped"


@dataclasses.dataclass(frozen=True, slots=True)
class DeadLetterSettled:
    """A record on topic `deadletter`: what an operator did about the letters of one place. Same key as theirs.

    id: of the act on the audit trail.
    """

    id: str
    topic: str
    partition: int
    offset: int
    outcome: Settlement
    actor: str
    reason: str
    at: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class ConsumerHalted:
    """A record on topic `deadletter`: a consumer refused more than its limit, and stands before the record of this
    place."""

    consumer: str
    topic: str
    partition: int
    offset: int
    reason: str
    at: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class ConsumerResumed:
    """A record on topic `deadletter`: a halt is over, since a record was handled or an operator said so.

    letters: how many more an operator lets it write before its limit counts again. id: of the act on the audit trail;
    empty where the consumer itself went on.
    """

    consumer: str
    at: datetime.datetime
    actor: str
    reason: str
    letters: int = 0
    id: str = ""
