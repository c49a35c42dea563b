"""A real feedback process on a real log, and eyes to see what it wrote."""

import contextlib
import dataclasses
import fcntl
import pathlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

import pytest

import trimtab_client
from trimtab.bus import connect, port, topics
from trimtab.core import audit, completions, feedback, ids
from trimtab.feedback import app, settings
from trimtab.rpc import secrets
from trimtab.wire import calls, schemas
from trimtabapi.feedback.v1 import feedback_service_pb2_grpc

TENANT = "acme"
_Record = TypeVar("_Record")


def records(log: port.EventLog, topic: topics.Topic, kind: type[_Record]) -> list[_Record]:
    """Everything on a topic, by partition and offset."""
    ends = log.end_offsets(topic.name)
    reader = log.reader(dict.fromkeys(ends, 0))
    found: list[port.Record] = []
    while len(found) < sum(ends.values()):
        found += reader.poll(100, 5.0)
    reader.close()
    found.sort(key=lambda record: (record.partition, record.offset))
    return [schemas.decode(record.value, record.headers, kind) for record in found]


@dataclasses.dataclass
class Service:
    log: port.EventLog
    secrets: secrets.Secrets
    calls: calls.FeedbackCalls
    stub: feedback_service_pb2_grpc.FeedbackServiceStub
    log_path: pathlib.Path

    def written(self) -> list[feedback.FeedbackEvent]:
        return records(self.log, topics.FEEDBACK, feedback.FeedbackEvent)

    @contextlib.contextmanager
    def writer_that_does_not_end(self) -> Iterator[None]:
        """Another process's turn to write, for as long as the block lasts."""
        with self.log_path.with_name(f"{self.log_path.name}.write").open("rb") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            yield

    def acts(self) -> list[audit.AuditRecord]:
        return records(self.log, topics.AUDIT, audit.AuditRecord)

    def completions(self) -> list[completions.Completion]:
        return records(self.log, topics.COMPLETIONS, completions.Completion)

    def completion_id(self, session: str = "s", tenant: str = TENANT) -> str:
        session_hash = ids.keyed_hash(self.secrets.hash_key, tenant, session)
        token = ids.CompletionToken(ids.uuid7(), session_hash, b"r" * 8, completions.Arm.STABLE, randomised=True)
        return ids.mint(token, tenant, self.secrets.signing)


@pytest.fixture
def settings_of(tmp_path: pathlib.Path) -> Iterator[dict[str, Any]]:
    secrets.create(tmp_path / "secrets.toml", TENANT)
    yield {
        "log_url": f"sqlite://{tmp_path / 'log.db'}",
        "registry_url": f"file://{tmp_path / 'registry'}",
        "cache": tmp_path / "cache",
        "lines_file": tmp_path / "lines.toml",
        "secrets_file": tmp_path / "secrets.toml",
        "drain_s": 0.2,
    }


@pytest.fixture
async def service(settings_of: dict[str, Any]) -> AsyncIterator[Service]:
    made = app.build(settings.FeedbackSettings(**settings_of))
    log = connect.open_log(settings_of["log_url"])
    async with made.serving() as address:
        channel = trimtab_client.connect(address, made.secrets.internal_token)
        stub = feedback_service_pb2_grpc.FeedbackServiceStub(channel)
        path = pathlib.Path(settings_of["log_url"].removeprefix("sqlite://"))
        yield Service(log, made.secrets, calls.FeedbackCalls(channel), stub, path)
        await channel.close()
    log.close()
