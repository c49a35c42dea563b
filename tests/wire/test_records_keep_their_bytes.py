"""What was written yesterday reads today: golden bytes of one record of each kind, as hex in tests/wire/golden."""

import dataclasses
import pathlib

import pytest
from tests.wire import records

from trimtab.bus import topics
from trimtab.core import errors, lines, releases
from trimtab.wire import schemas
from trimtabapi.release.v1 import release_pb2

EVERY = records.RECORDS | records.FURTHER
GOLDEN = pathlib.Path(__file__).parent / "golden"


def golden(topic: str) -> tuple[bytes, dict[str, bytes]]:
    header, value = (GOLDEN / f"{topic}.hex").read_text().split()
    return bytes.fromhex(value), {schemas.SCHEMA_HEADER: header.encode()}


def test_every_topic_has_a_golden_record():
    assert set(records.RECORDS) == set(topics.ALL)
    assert {path.stem for path in GOLDEN.glob("*.hex")} == set(EVERY)


@pytest.mark.parametrize("kind", sorted(EVERY))
def test_a_record_encodes_to_its_golden_bytes(kind):
    assert schemas.encode(EVERY[kind]) == golden(kind)


@pytest.mark.parametrize("kind", sorted(EVERY))
def test_golden_bytes_decode_to_their_record(kind):
    record = EVERY[kind]
    assert schemas.decode(*golden(kind), type(record)) == record


@pytest.mark.parametrize("kind", sorted(EVERY))
@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (None, "schema header"),
        (b"", "schema header"),
        (b"\xff/1", "schema header"),
        (b"somethingelse/1", "schema header"),
        (b"{name}/2", "version"),
        (b"{name}/-1", "version"),
        (b"{name}/", "version"),
    ],
)
def test_a_header_of_another_schema_or_version_is_malformed(kind, header, complaint):
    value, headers = golden(kind)
    name = headers[schemas.SCHEMA_HEADER].split(b"/")[0]
    changed = {} if header is None else {schemas.SCHEMA_HEADER: header.replace(b"{name}", name)}
    with pytest.raises(errors.MalformedRecord, match=complaint):
        schemas.decode(value, changed, type(EVERY[kind]))


def test_a_release_older_than_the_guardrail_on_the_reward_is_read_as_judged_without_it():
    newer = dataclasses.replace(records.RECORDS["rollouts"], terms=lines.ReleaseConfig(), reward_id="a" * 64)
    value, headers = schemas.encode(newer)
    assert schemas.decode(value, headers, releases.Release) == newer
    older = release_pb2.Release.FromString(value)
    older.ClearField("reward_id")
    older.terms.guardrails.ClearField("reward")
    read = schemas.decode(older.SerializeToString(), headers, releases.Release)
    assert (read.reward_id, read.terms.guardrails.reward) == ("", 0.0)
    assert read.terms.guardrails.repetition == newer.terms.guardrails.repetition
