"""A ledger that stands still before bad records goes on when an operator says so. What poison does to one that users
vote at is rows 8 and 9 of the harness (`test_harness_rows.py`)."""

import asyncio
import contextlib
import pathlib
import re
import time
from collections.abc import Callable, Iterator

import pytest
from tests.faults import poison
from tests.unit.ledger import making

import trimtab_client
from trimtab.bus import letters, port, publish, topics
from trimtab.bus.sqlite import SqliteLog
from trimtab.cli.commands import root
from trimtab.core import audit, errors, ledger
from trimtab.ledger import auditing, counting
from trimtab.ledger.store import database
from trimtab.rpc import secrets
from trimtab.wire import calls

LIMIT_S = 60.0


@pytest.fixture
def log(tmp_path: pathlib.Path) -> Iterator[SqliteLog]:
    with contextlib.closing(SqliteLog(tmp_path / "log.sqlite", deadline_s=30.0)) as opened:
        yield opened


def known(log: port.EventLog) -> letters.Letters:
    with contextlib.closing(letters.Letters(log)) as found:
        found.refresh()
        return found


def halted(log: port.EventLog) -> dict[str, audit.ConsumerHalted]:
    return known(log).halted


def joined(folder: pathlib.Path) -> int:
    store = database.Database(poison.settings_of(folder)["database"])
    found = counting.counts(store, ledger.CountsRequest(making.TENANT, making.LINE))
    store.close()
    return found.joined


def audited(folder: pathlib.Path) -> list[str]:
    store = database.Database(poison.settings_of(folder)["database"])
    found = auditing.listed(store, ledger.ListAuditRequest(making.TENANT, "", 0)).records
    store.close()
    return [record.act for record in found]


def operator(*typed: str, folder: pathlib.Path) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        root.run(["deadletter", *typed, "--state", str(folder)])
    return int(ended.value.code or 0)


def evidence(folder: pathlib.Path) -> str:
    """Why there is none; empty when there is."""

    async def ask() -> str:
        token = secrets.load(folder / "secrets.toml").internal_token
        async with trimtab_client.connect((folder / "address").read_text(), token) as channel:
            try:
                await calls.LedgerCalls(channel).evidence(ledger.EvidenceRequest(making.TENANT, "rel", 60.0))
            except errors.ServiceUnavailable as problem:
                return str(problem)
        return ""

    return asyncio.run(ask())


def wait_for(met: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_an_operator_lets_a_ledger_pass_over_records_that_are_bad_without_starting_it_again(
    log: SqliteLog, tmp_path: pathlib.Path
) -> None:
    pairs = poison.votes_and_answers(101)
    poison.append(log, [poison.poisoned("bad protobuf", vote) for _, vote in pairs[:100]])
    with poison.ledger(tmp_path) as process:
        wait_for(lambda: "ledger" in halted(log), "it did not halt")
        resume = ("resume", "ledger", "--letters", "80", "--reason", "a broken import")
        assert operator(*resume, folder=tmp_path) == 0
        poison.wait_until_read(tmp_path, log, process)
        wait_for(lambda: not evidence(tmp_path), "it goes on and gives no evidence")
        assert len(known(log).entries) == 100
        answer, vote = pairs[100]
        for topic, value in ((topics.COMPLETIONS, answer), (topics.FEEDBACK, vote)):
            publish.publish(log, topic, answer.context.session_hash, value).result()
        assert operator("drop", "--all", "--reason", "of no use", folder=tmp_path) == 0
        assert {place for place, _ in known(log).entries} == known(log).settled.keys()
        wait_for(lambda: audited(tmp_path).count("deadletter.drop") == 100, "the acts were not all on the audit trail")
        poison.wait_until_read(tmp_path, log, process)
    assert joined(tmp_path) == 1
    said = (tmp_path / "ledger.log").read_text()
    assert len(re.findall('"a consumer halts"', said)) == 1
