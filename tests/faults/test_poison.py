"""Records that cannot be handled: among many good ones they cost nothing, and where there is nothing else the consumer
stands still, says so, and goes on when it is corrected."""

import asyncio
import contextlib
import pathlib
import random
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.faults import poison
from tests.unit.ledger import making

import trimtab_client
from trimtab.bus import letters, port, publish, topics
from trimtab.bus.sqlite import SqliteLog
from trimtab.cli.commands import root
from trimtab.cli.machine import platform
from trimtab.core import audit, errors, ledger
from trimtab.ledger import auditing, counting
from trimtab.ledger.store import database
from trimtab.rpc import health, secrets
from trimtab.wire import calls

EVENTS = 5_000
POISON = EVENTS // 100
LIMIT_S = 60.0


@pytest.fixture
def log(tmp_path: pathlib.Path) -> Iterator[SqliteLog]:
    with contextlib.closing(SqliteLog(tmp_path / "log.sqlite", deadline_s=30.0)) as opened:
        yield opened


def entries(log: port.EventLog) -> dict[letters.Place, letters.Entry]:
    with contextlib.closing(letters.Letters(log)) as known:
        known.refresh()
        return {place: entry for (place, _), entry in known.entries.items()}


def open_places(log: port.EventLog) -> set[letters.Place]:
    with contextlib.closing(letters.Letters(log)) as known:
        known.refresh()
        return {place for place, _ in known.entries} - known.settled.keys()


def counts(folder: pathlib.Path) -> ledger.CountsResponse:
    store = database.Database(poison.settings_of(folder)["database"])
    found = counting.counts(store, ledger.CountsRequest(making.TENANT, making.LINE))
    store.close()
    return found


def audited(folder: pathlib.Path) -> list[tuple[str, str]]:
    store = database.Database(poison.settings_of(folder)["database"])
    found = auditing.listed(store, ledger.ListAuditRequest(making.TENANT, "", 0)).records
    store.close()
    return [(record.act, record.target) for record in found]


def operator(*typed: str, folder: pathlib.Path) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        root.run(["deadletter", *typed, "--state", str(folder)])
    return int(ended.value.code or 0)


def is_serving(folder: pathlib.Path) -> bool:
    address = folder / "address"
    return address.exists() and asyncio.run(health.is_serving(address.read_text(), timeout_s=2.0))


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


def wait_for(met: Any, what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [8])
def test_one_in_a_hundred_is_dead_lettered_and_nothing_else_is_lost(
    seed: int, log: SqliteLog, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    valid = (EVENTS - POISON) // 2
    pairs = poison.votes_and_answers(valid + POISON)
    records, kinds = [], [*poison.REASONS] * (POISON // len(poison.REASONS))
    for answer, vote in pairs[:valid]:
        key = answer.context.session_hash
        records += [publish.new_record(topics.COMPLETIONS, key, answer), publish.new_record(topics.FEEDBACK, key, vote)]
    chance = random.Random(seed)
    spread = sorted(chance.sample(range(len(records)), POISON), reverse=True)
    bad = {}
    for at, kind, (_, vote) in zip(spread, kinds, pairs[valid:], strict=True):
        bad[id(record := poison.poisoned(kind, vote))] = kind
        records.insert(at, record)
    assert len(records) == EVENTS
    places = poison.append(log, records, monkeypatch)
    expected = {place: bad[id(record)] for place, record in zip(places, records, strict=True) if id(record) in bad}
    # the completions of the votes that are to be read in the end
    late = [publish.new_record(topics.COMPLETIONS, a.context.session_hash, a) for a, _ in pairs[valid:]]

    with poison.ledger(tmp_path) as process:
        poison.wait_until_read(tmp_path, log, process)
        found = entries(log)
        assert found.keys() == expected.keys()
        for place, kind in expected.items():
            assert poison.REASONS[kind] in found[place].reason, (kind, found[place].reason)
            assert (found[place].consumer, found[place].times) == ("ledger", 1)
        assert (counts(tmp_path).joined, counts(tmp_path).waiting) == (valid, 0)
        assert counts(tmp_path).examples == valid

        # a replay to the same reader: refused again, each a new letter, and what is whole only
        assert operator("replay", "--all", "--reason", "try", folder=tmp_path) == 1
        poison.wait_until_read(tmp_path, log, process)
        again = open_places(log) - expected.keys()
        assert (len(again), is_serving(tmp_path)) == (POISON - POISON // len(poison.REASONS), True)
        assert operator("replay", str(places[records.index(record)]), "--reason", "twice", folder=tmp_path) == 0
        assert len(entries(log)) == POISON + len(again)
        assert counts(tmp_path).joined == valid

    with poison.ledger(tmp_path, wider=True) as process:
        log.append(late).result()
        assert operator("replay", "--all", "--matching", "version '2'", "--reason", "read", folder=tmp_path) == 0
        poison.wait_until_read(tmp_path, log, process)
        newer = POISON // len(poison.REASONS)
        assert (counts(tmp_path).joined, counts(tmp_path).examples) == (valid + newer, valid + newer)
        assert counts(tmp_path).duplicates == 0
        assert operator("drop", "--all", "--reason", "of no use", folder=tmp_path) == 0
        assert open_places(log) == set()
        wait_for(lambda: len(audited(tmp_path)) == len(entries(log)), "the acts were not all on the audit trail")


def test_where_everything_is_refused_the_consumer_stands_still_and_says_so_until_it_is_corrected(
    log: SqliteLog, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = poison.votes_and_answers(400)
    answers = [publish.new_record(topics.COMPLETIONS, one.context.session_hash, one) for one, _ in pairs]
    votes = [poison.poisoned("newer version", vote) for _, vote in pairs]
    poison.append(log, [*answers, *votes], monkeypatch)
    port_of_metrics = platform.free_port()
    url = f"http://127.0.0.1:{port_of_metrics}/metrics"
    stood = {}
    for start in range(3):  # whoever starts it again does not make it go on
        with poison.ledger(tmp_path, metrics_port=port_of_metrics):
            wait_for(lambda: 'trimtab_consumer_halted{consumer="ledger"} 1.0' in _page(url), "no alarm")
            wait_for(lambda: is_serving(tmp_path), "it answers nothing at all")
            assert evidence(tmp_path).startswith(
                "There is no evidence while the ledger reads nothing. Consumer 'ledger'"
            )
            halted = _halted(log)["ledger"]
            assert "20 records in a row were refused already" in halted.reason
            assert "version '2'; this version reads up to 1" in halted.reason
            assert len(entries(log)) == 20
            source = port.TopicPartition(halted.topic, halted.partition)
            assert poison.positions(tmp_path).get(source, 0) == halted.offset
            stood[start] = (halted, tuple(sorted(poison.positions(tmp_path).items())))
    assert len(set(stood.values())) == 1
    with poison.ledger(tmp_path, wider=True, metrics_port=port_of_metrics) as process:
        poison.wait_until_read(tmp_path, log, process)
        wait_for(lambda: is_serving(tmp_path), "it answers nothing at all")
        assert 'trimtab_consumer_halted{consumer="ledger"} 0.0' in _page(url)
        assert (_halted(log), evidence(tmp_path)) == ({}, "")
        assert operator("replay", "--all", "--reason", "the reader is repaired", folder=tmp_path) == 0
        poison.wait_until_read(tmp_path, log, process)
        assert (counts(tmp_path).joined, counts(tmp_path).duplicates) == (len(pairs), 0)


def test_an_operator_lets_a_ledger_pass_over_records_that_are_bad_without_starting_it_again(
    log: SqliteLog, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = poison.votes_and_answers(101)
    votes = [poison.poisoned("bad protobuf", vote) for _, vote in pairs[:100]]
    poison.append(log, votes, monkeypatch)
    with poison.ledger(tmp_path) as process:
        wait_for(lambda: "ledger" in _halted(log), "it did not halt")
        resume = ("resume", "ledger", "--letters", "80", "--reason", "a broken import")
        assert operator(*resume, folder=tmp_path) == 0
        poison.wait_until_read(tmp_path, log, process)
        wait_for(lambda: not evidence(tmp_path), "it goes on and gives no evidence")
        assert len(entries(log)) == 100
        answer, vote = pairs[100]
        for topic, value in ((topics.COMPLETIONS, answer), (topics.FEEDBACK, vote)):
            publish.publish(log, topic, answer.context.session_hash, value).result()
        poison.wait_until_read(tmp_path, log, process)
    assert counts(tmp_path).joined == 1
    said = (tmp_path / "ledger.log").read_text()
    assert len(re.findall('"a consumer halts"', said)) == 1


def _page(url: str) -> str:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, timeout=2.0).text
    return ""


def _halted(log: port.EventLog) -> dict[str, audit.ConsumerHalted]:
    with contextlib.closing(letters.Letters(log)) as known:
        known.refresh()
        return known.halted
