"""Several ledgers on one PostgreSQL: one writes, and a paused one that wakes up commits nothing more."""

import contextlib
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests import timing
from tests.postgres.server import Server
from tests.services.ledger.conftest import settings_at
from tests.services.ledger.test_ledger_killed import command, once, running, wait_for
from tests.unit.ledger import making
from tests.unit.ledger.test_rebuild_from_the_log import catch_up

from trimtab.bus import connect, port, publish, topics
from trimtab.core import errors, examples, ledger
from trimtab.ledger import counting, leading
from trimtab.ledger.store import database, tables
from trimtab.rpc import health

VOTES = 300
_LEADER = "SELECT holder, generation FROM leases WHERE name = 'ledger' AND expires_us > 0"
# Who saved positions, and when: kept by the server itself.
_WATCH = (
    "CREATE TABLE saved (who text, at timestamptz)",
    "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " INSERT INTO saved VALUES (current_setting('application_name'), clock_timestamp()); RETURN NEW; END $$",
    "CREATE TRIGGER note BEFORE INSERT ON offsets FOR EACH ROW EXECUTE FUNCTION note()",
)
_IN_TRANSACTION = (
    "SELECT 1 FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE application_name = %s"
    " AND state = 'idle in transaction' AND locktype = 'advisory' AND granted"
)


@pytest.fixture
def url(postgres: Server) -> Iterator[str]:
    made = postgres.create()
    database.Database(made).close()
    yield made
    postgres.recycle(made)


@contextlib.contextmanager
def ended(settings_of: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """A ledger that may end by itself; it has ended when this is left."""
    process = subprocess.Popen(command(settings_of), stderr=subprocess.DEVNULL)
    yield process
    process.kill()
    process.wait()


def leads(postgres: Server, url: str, process: subprocess.Popen[bytes]) -> bool:
    return any(f"/{process.pid}/" in holder for holder, _ in postgres.ask(url, _LEADER))


def answers(log: port.EventLog, first: int = 0, count: int = VOTES) -> None:
    for number in range(first, first + count):
        answer = making.completion(f"s{number % 60}", number)
        publish.publish(log, topics.COMPLETIONS, answer.context.session_hash, answer)
    log.append([]).result()


def votes(log: port.EventLog, first: int, last: int) -> None:
    """One after the other, each durable, so that they come in many batches."""
    for number in range(first, last):
        answer = making.completion(f"s{number % 60}", number)
        publish.publish(log, topics.FEEDBACK, answer.context.session_hash, making.thumb(answer)).result()


def joined(url: str) -> ledger.CountsResponse:
    store = database.Database(url)
    try:
        return counting.counts(store, ledger.CountsRequest(making.TENANT, making.LINE))
    finally:
        store.close()


def stop_in_a_transaction(postgres: Server, url: str, process: subprocess.Popen[bytes], log: port.EventLog) -> int:
    """Pauses the leader while it holds the writers' lock; returns how many votes that took."""
    name, voted = f"trimtab ledger {process.pid}", 0
    while voted < VOTES // 2:
        votes(log, voted, voted + 1)
        voted += 1
        for _ in range(20):
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.002)
            if postgres.ask(url, _IN_TRANSACTION, name) and takes_a_vote(log, voted):
                return voted + 1
            process.send_signal(signal.SIGCONT)
            time.sleep(0.001)
    raise AssertionError("it was never met in a transaction")


def stop_anywhere(process: subprocess.Popen[bytes], log: port.EventLog, voted: int) -> int:
    """Pauses the leader, only not while it writes into the log; returns how many votes there are then."""
    process.send_signal(signal.SIGSTOP)
    while not takes_a_vote(log, voted):
        process.send_signal(signal.SIGCONT)
        time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)
    return voted + 1


def takes_a_vote(log: port.EventLog, number: int) -> bool:
    """Whether nobody was paused with the embedded log's turn to write; the vote is stored then, and not otherwise."""
    try:
        votes(log, number, number + 1)
    except errors.LogUnavailable:
        return False
    return True


def undisturbed(folder: pathlib.Path) -> list[examples.Example]:
    """What one ledger alone publishes of the same records, on SQLite."""
    folder.mkdir()
    log = connect.open_log(f"sqlite://{folder / 'log.db'}")
    answers(log)
    votes(log, 0, VOTES)
    catch_up(log, f"sqlite:///{folder / 'ledger.db'}")
    found = once(log)
    log.close()
    return found


def in_place(found: list[examples.Example]) -> list[examples.Example]:
    return sorted(found, key=lambda example: (example.partition, example.sequence))


@pytest.mark.parametrize("paused", ["between transactions or anywhere", "in a transaction"])
def test_a_paused_leader_is_replaced_and_commits_nothing_when_it_wakes_up(
    postgres: Server, url: str, tmp_path: pathlib.Path, paused: str
) -> None:
    settings_of = settings_at(tmp_path, url)
    log = connect.open_log(settings_of["log_url"])
    answers(log)
    with running(settings_of) as first:
        timing.until(lambda: leads(postgres, url, first))
        timing.until(lambda: bool(postgres.ask(url, "SELECT 1 FROM completions HAVING count(*) = %s", VOTES)))
        for statement in _WATCH:
            postgres.ask(url, statement)
        with running(settings_of) as second:
            if paused == "in a transaction":
                voted = stop_in_a_transaction(postgres, url, first, log)
            else:
                voted = VOTES // 3
                votes(log, 0, voted)
                timing.until(lambda: bool(postgres.ask(url, "SELECT 1 FROM saved LIMIT 1")))
                voted = stop_anywhere(first, log, voted)
            votes(log, voted, 2 * VOTES // 3)
            timing.until(lambda: leads(postgres, url, second))
            [(taken_over,)] = postgres.ask(url, "SELECT clock_timestamp()")
            first.send_signal(signal.SIGCONT)
            votes(log, 2 * VOTES // 3, VOTES)
            wait_for(log, VOTES)
            timing.until(lambda: joined(url).joined == VOTES)
            time.sleep(1.5)  # the one that woke up has looked, and been refused
            assert leads(postgres, url, second)
            wrote = postgres.ask(url, "SELECT who, count(*) FROM saved WHERE at > %s GROUP BY who", taken_over)
            before = postgres.ask(url, "SELECT DISTINCT who FROM saved WHERE at <= %s", taken_over)
            [(_, generation)] = postgres.ask(url, _LEADER)
    assert [who for who, _ in wrote] == [f"trimtab ledger {second.pid}"]
    assert (f"trimtab ledger {first.pid}",) in before or paused == "in a transaction"
    assert generation >= 2  # more where a busy machine let a lease run out before
    counts = joined(url)
    assert (counts.joined, counts.examples, counts.duplicates, counts.waiting) == (VOTES, VOTES, 0, 0)
    published = once(log)
    log.close()
    assert in_place(published) == in_place(undisturbed(tmp_path / "undisturbed"))


async def test_a_standby_answers_and_takes_over_at_once_from_one_that_stops(
    postgres: Server, url: str, tmp_path: pathlib.Path
) -> None:
    settings_of = settings_at(tmp_path, url) | {"lease_s": 60.0}
    log = connect.open_log(settings_of["log_url"])
    answers(log, count=20)
    votes(log, 0, 10)
    with ended(settings_of) as first:
        timing.until(lambda: leads(postgres, url, first))
        with running(settings_of | {"address_file": tmp_path / "address"}) as second:
            timing.until((tmp_path / "address").exists)
            address = (tmp_path / "address").read_text()
            deadline = time.monotonic() + timing.PATIENCE_S
            while not await health.is_serving(address, timeout_s=1.0):
                assert time.monotonic() < deadline
            assert leads(postgres, url, first)
            votes(log, 10, 20)
            wait_for(log, 20)
            first.terminate()
            assert first.wait(timing.PATIENCE_S) == 0
            timing.until(lambda: leads(postgres, url, second), within_s=25.0)
            answers(log, 20, 5)
            votes(log, 20, 25)
            wait_for(log, 25)
    log.close()


@contextlib.contextmanager
def opened(url: str, **other: Any) -> Iterator[database.Database]:
    store = database.Database(url, **other)
    yield store
    store.close()


def test_a_lease_that_ran_out_is_lost_even_when_nobody_took_it(postgres: Server, url: str) -> None:
    with opened(url) as store:
        lead = leading.Lead(store, 10.0)
        assert lead._take()
        with lead.write() as connection:
            mark(connection, "while it leads")
        postgres.ask(url, "UPDATE leases SET expires_us = expires_us - 11000000")
        with pytest.raises(leading.LeadLost, match="generation 1"), lead.write() as connection:
            mark(connection, "too late")
        assert marks(postgres, url) == ["while it leads"]
        assert lead._take()
        assert lead._generation == 2


def test_of_two_that_believe_to_lead_one_writes(postgres: Server, url: str) -> None:
    with opened(url) as one, opened(url) as other:
        first, second = leading.Lead(one, 10.0), leading.Lead(other, 10.0)
        assert (first._take(), second._take()) == (True, False)
        postgres.ask(url, "UPDATE leases SET expires_us = expires_us - 11000000")
        assert second._take()
        with pytest.raises(leading.LeadLost), first.write() as connection:
            mark(connection, "first")
        with second.write() as connection:
            mark(connection, "second")
        assert marks(postgres, url) == ["second"]


def test_a_transaction_that_pauses_too_long_is_ended_by_the_next(postgres: Server, url: str) -> None:
    with opened(url) as one, opened(url, paused_s=0.5) as other:
        first, second = leading.Lead(one, 0.2), leading.Lead(other, 10.0)
        assert first._take()
        with pytest.raises(errors.ServiceUnavailable), first.write() as connection:
            mark(connection, "first", "first as well")
            assert second._take()
            mark(connection, "first again")
        assert marks(postgres, url) == []
        with second.write() as connection:
            mark(connection, "second")
        assert marks(postgres, url) == ["second"]


def test_another_version_s_database_is_not_emptied_while_somebody_leads(postgres: Server, url: str) -> None:
    with opened(url) as store:
        lead = leading.Lead(store, 10.0)
        assert lead._take()
        postgres.ask(url, "UPDATE version SET version = 0")
        with pytest.raises(errors.WrongState, match=r"version 0, .* works with it\. Stop that one first"):
            database.Database(url)
        with pytest.raises(errors.WrongState, match=f"this one wants version {tables.VERSION}"):
            lead._take()
        lead.give_up()
    with opened(url) as store, store.read() as connection:
        assert store.version(connection) == tables.VERSION


def mark(connection: Any, *names: str) -> None:
    connection.execute(tables.MARKS.insert(), [{"name": name, "value": "yes"} for name in names])


def marks(postgres: Server, url: str) -> list[str]:
    return [name for (name,) in postgres.ask(url, "SELECT name FROM marks ORDER BY name")]
