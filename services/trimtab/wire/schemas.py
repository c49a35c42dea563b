"""Which message carries which record, under which schema name and version; bytes of records and back."""

import dataclasses
from typing import Any, TypeVar, cast

from google.protobuf import message

from trimtab.core import audit, completions, errors, examples, feedback, models, releases, scoring
from trimtab.wire import codec
from trimtabapi.audit.v1 import audit_pb2
from trimtabapi.completion.v1 import completion_pb2
from trimtabapi.example.v1 import example_pb2
from trimtabapi.feedback.v1 import feedback_pb2
from trimtabapi.model.v1 import model_pb2
from trimtabapi.release.v1 import release_pb2
from trimtabapi.reward.v1 import score_pb2

_Core = TypeVar("_Core")


@dataclasses.dataclass(frozen=True, slots=True)
class _Schema:
    name: str
    version: int
    message: type[message.Message]


_SCHEMAS: dict[type, _Schema] = {
    completions.Completion: _Schema("completion", 1, completion_pb2.Completion),
    feedback.FeedbackEvent: _Schema("feedback", 1, feedback_pb2.FeedbackEvent),
    examples.Example: _Schema("example", 1, example_pb2.Example),
    scoring.AnswerScore: _Schema("score", 1, score_pb2.AnswerScore),
    models.PublishedModel: _Schema("model", 1, model_pb2.PublishedModel),
    releases.Release: _Schema("release", 1, release_pb2.Release),
    audit.AuditRecord: _Schema("audit", 1, audit_pb2.AuditRecord),
    audit.Erasure: _Schema("erasure", 1, audit_pb2.Erasure),
    audit.DeadLetter: _Schema("deadletter", 1, audit_pb2.DeadLetter),
    audit.DeadLetterSettled: _Schema("deadletter-settled", 1, audit_pb2.DeadLetterSettled),
    audit.ConsumerHalted: _Schema("consumer-halted", 1, audit_pb2.ConsumerHalted),
    audit.ConsumerResumed: _Schema("consumer-resumed", 1, audit_pb2.ConsumerResumed),
}
SCHEMA_HEADER = "trimtab-schema"


def encode(record: Any) -> tuple[bytes, dict[str, bytes]]:
    """Value and headers of a record: protobuf bytes, and the header that names schema and version."""
    schema = _SCHEMAS[type(record)]
    value = codec.to_proto(record, schema.message).SerializeToString(deterministic=True)
    return value, {SCHEMA_HEADER: f"{schema.name}/{schema.version}".encode()}


def decode_any(value: bytes, headers: dict[str, bytes], *, newer: bool = False) -> Any:
    """The record that the header names, whichever it is; MalformedRecord as `decode` has it. With `newer`, one of a
    newer version is read as far as this one understands it."""
    name = headers.get(SCHEMA_HEADER, b"").decode(errors="replace").partition("/")[0]
    found = next(((kind, schema) for kind, schema in _SCHEMAS.items() if schema.name == name), None)
    if found is None:
        raise errors.MalformedRecord(f"Its schema header says {name!r}, which this version does not know.")
    kind, schema = found
    return decode(value, {SCHEMA_HEADER: f"{name}/{schema.version}".encode()} if newer else headers, kind)


def decode(value: bytes, headers: dict[str, bytes], kind: type[_Core]) -> _Core:
    """The record; MalformedRecord when the bytes can never be read as one, with the reason."""
    schema = _SCHEMAS[kind]
    name, _, version = headers.get(SCHEMA_HEADER, b"").decode(errors="replace").partition("/")
    if name != schema.name:
        raise errors.MalformedRecord(f"Its schema header says {name!r}, expected {schema.name!r}.")
    if not version.isdigit() or int(version) > schema.version:
        raise errors.MalformedRecord(f"It has {name} version {version!r}; this version reads up to {schema.version}.")
    parsed = schema.message()
    try:
        parsed.ParseFromString(value)
        return cast(_Core, codec.from_proto(parsed, cast(type, kind)))
    except (message.DecodeError, errors.InvalidField, UnicodeDecodeError) as problem:
        raise errors.MalformedRecord(f"It cannot be read as {name} version {version}: {problem}") from problem
