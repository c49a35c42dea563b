"""What operators did, what is to be forgotten, what could not be handled."""

import dataclasses
import datetime

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
    """The record on topic `deadletter`: the bytes, where they stood, who refused them and why."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: dict[str, bytes]
    consumer: str
    reason: str
    at: datetime.datetime
