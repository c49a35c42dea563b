"""Records that no consumer of this version can handle, as other programs might write them; and ledgers that meet them.

Every poison is made from a valid vote. What the ledger says of it is in `REASONS`.
"""

import contextlib
import dataclasses
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

from tests.unit.ledger import making

from trimtab.bus import port, publish, topics
from trimtab.core import completions, feedback
from trimtab.ledger.store import database, offsets
from trimtab.rpc import secrets
from trimtab.wire import schemas

# Kind of poison -> what its letter has to say.
REASONS = {
    "bad protobuf": "It cannot be read as feedback version 1: ",
    "huge": "bytes and topic feedback takes 262144.",
    "newer version": "It has feedback version '2'; this version reads up to 1.",
    "no number": "Its `strength` is nan: no number.",
    "invalid UTF-8": "It cannot be read as feedback version 1: ",
}
_LIMIT_S = 120.0


def votes_and_answers(count: int) -> list[tuple[completions.Completion, feedback.FeedbackEvent]]:
    return [vote_and_answer(number) for number in range(count)]


def vote_and_answer(number: int) -> tuple[completions.Completion, feedback.FeedbackEvent]:
    """Of forty sessions; a comparison, so that there is a number to spoil."""
    answer = making.completion(f"s{number % 40}", number, texts=("one", "two"))
    kind = feedback.Comparison(making.ref(answer), making.ref(answer, 1), 0.5)
    return answer, making.event(kind, f"vote-{number}", about=answer)


def poisoned(kind: str, vote: feedback.FeedbackEvent) -> port.NewRecord:
    """The vote as a record that cannot be handled."""
    assert vote.context is not None and isinstance(vote.kind, feedback.Comparison)
    good = publish.new_record(topics.FEEDBACK, vote.context.session_hash, vote)
    match kind:
        case "bad protobuf":
            return dataclasses.replace(good, value=good.value[:-3])
        case "huge":
            return dataclasses.replace(good, value=good.value + b"\xfa\x3f\x80\x80\x14" + bytes(20 * 16384))
        case "newer version":
            return dataclasses.replace(good, headers={schemas.SCHEMA_HEADER: b"feedback/2"})
        case "no number":
            spoilt = dataclasses.replace(vote, kind=dataclasses.replace(vote.kind, strength=float("nan")))
            return publish.new_record(topics.FEEDBACK, vote.context.session_hash, spoilt)
        case "invalid UTF-8":
            name = vote.id.encode()
            return dataclasses.replace(good, value=good.value.replace(name, b"\xff\xfe" + name[2:], 1))
    raise AssertionError(kind)


def append(log: port.EventLog, records: Sequence[port.NewRecord]) -> None:
    """As a program appends whose topics take more."""
    wide = dataclasses.replace(topics.FEEDBACK, max_bytes=topics.MIB)
    with mock.patch.dict(topics.ALL, {topics.FEEDBACK.name: wide}):
        appended = log.append(records)
    appended.result()


def settings_of(folder: pathlib.Path) -> dict[str, Any]:
    """Of a ledger whose state folder is an operator's."""
    if not (folder / "secrets.toml").exists():
        secrets.create(folder / "secrets.toml", making.TENANT)
        (folder / "lines.toml").write_text(f'[lines.{making.LINE}]\ntenant = "{making.TENANT}"\n')
    return {
        "log_url": f"sqlite:///{folder}/log.sqlite",
        "registry_url": f"file://{folder / 'registry'}",
        "cache": folder / "cache",
        "lines_file": folder / "lines.toml",
        "secrets_file": folder / "secrets.toml",
        "database": f"sqlite:///{folder / 'ledger.db'}",
        "address_file": folder / "address",
        "drain_s": 1.0,
    }


@contextlib.contextmanager
def ledger(folder: pathlib.Path) -> Iterator[subprocess.Popen[bytes]]:
    """The ledger's process; killed at the end. It must not have ended by itself."""
    (folder / "address").unlink(missing_ok=True)
    flags = [
        part for name, value in settings_of(folder).items() for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    with (folder / "ledger.log").open("ab") as said:
        process = subprocess.Popen([sys.executable, "-m", "trimtab.cli.app", "ledger", *flags], stderr=said)
    try:
        yield process
        assert process.poll() is None, "the ledger ended by itself"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def positions(folder: pathlib.Path) -> dict[port.TopicPartition, int]:
    store = database.Database(settings_of(folder)["database"])
    try:
        with store.read() as connection:
            return offsets.load(connection, [topics.COMPLETIONS.name, topics.FEEDBACK.name])
    finally:
        store.close()


def wait_until_read(folder: pathlib.Path, log: port.EventLog, process: subprocess.Popen[bytes]) -> None:
    """Until the ledger stands at the end of completions and feedback."""
    deadline = time.monotonic() + _LIMIT_S
    while True:
        ends = {**log.end_offsets(topics.COMPLETIONS.name), **log.end_offsets(topics.FEEDBACK.name)}
        stood = positions(folder)
        if all(stood.get(source, 0) == end for source, end in ends.items()):
            return
        assert process.poll() is None, "the ledger ended by itself"
        assert time.monotonic() < deadline, f"read {sum(stood.values())} of {sum(ends.values())}"
        time.sleep(0.05)
