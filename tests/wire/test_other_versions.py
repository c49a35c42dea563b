"""Records of an older and of a newer version: read, read in part, or refused by name; never misread."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.wire import records, versions

from trimtab.core import completions, errors, examples, feedback, models, releases, scoring
from trimtab.wire import schemas

EVERY = records.RECORDS | records.FURTHER
_PACKAGES = {
    completions.Completion: "completion",
    feedback.FeedbackEvent: "feedback",
    examples.Example: "example",
    scoring.AnswerScore: "reward",
    models.PublishedModel: "model",
    releases.Release: "release",
}


def held_by(protocol: versions.Protocol, kind: str) -> Any:
    """The message of a record in the hands of a version."""
    value, _ = schemas.encode(EVERY[kind])
    name = type(EVERY[kind]).__name__
    return protocol.message(f"trimtabapi.{_PACKAGES.get(type(EVERY[kind]), 'audit')}.v1.{name}").FromString(value)


def in_newer(kind: str) -> Any:
    return held_by(versions.newer(), kind)


def read(kind: str, written: Any) -> Any:
    _, headers = schemas.encode(EVERY[kind])
    return schemas.decode(written.SerializeToString(), headers, type(EVERY[kind]))


def enums(of: Any) -> Iterator[tuple[Any, Any]]:
    """(message, field) of every enum that is set."""
    yield from ((of, field) for field, _ in of.ListFields() if field.enum_type is not None)
    for inner in versions.messages(of):
        yield from enums(inner)


@pytest.mark.parametrize("kind", sorted(EVERY))
def test_what_a_newer_version_adds_is_ignored_wherever_it_stands(kind: str) -> None:
    written = in_newer(kind)
    said = versions.say_more(written)
    assert written.SerializeToString().count(b"news") == said
    assert read(kind, written) == EVERY[kind]


@pytest.mark.parametrize("kind", sorted(EVERY))
def test_an_enum_value_of_a_newer_version_is_refused_by_name_not_read_as_another(kind: str) -> None:
    for position, _ in enumerate(enums(in_newer(kind))):
        written = in_newer(kind)
        holder, field = list(enums(written))[position]
        if field.is_repeated:
            getattr(holder, field.name)[0] = versions.NEWER_VALUE
        else:
            setattr(holder, field.name, versions.NEWER_VALUE)
        with pytest.raises(errors.MalformedRecord, match=rf"{field.name}` has no usable value \(9999\); set one of"):
            read(kind, written)


@pytest.mark.parametrize(
    ("kind", "oneof", "said"),
    [
        ("feedback", "kind", "`kind` is missing; set one of thumb, rating"),
        ("scores", "outcome", "`outcome` is missing; set one of reward, unscored"),
    ],
)
def test_a_choice_that_only_a_newer_version_has_is_refused(kind: str, oneof: str, said: str) -> None:
    written = in_newer(kind)
    setattr(written, f"{versions.NEWER_MEMBER}_{oneof}", "news")
    with pytest.raises(errors.MalformedRecord, match=said):
        read(kind, written)


@pytest.mark.parametrize("kind", sorted(EVERY))
def test_what_the_released_version_knows_of_a_record_is_a_record(kind: str) -> None:
    """As the released version would have written it: what came since is not in it."""
    older = held_by(versions.released(), kind)
    older.DiscardUnknownFields()
    assert type(read(kind, older)) is type(EVERY[kind])


def test_a_newer_schema_is_left_to_a_newer_version() -> None:
    value, _ = schemas.encode(EVERY["completions"])
    with pytest.raises(errors.MalformedRecord, match="completion version '2'; this version reads up to 1"):
        schemas.decode(value, {schemas.SCHEMA_HEADER: b"completion/2"}, completions.Completion)
