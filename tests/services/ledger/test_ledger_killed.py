"""Promise 2 and 4 for the ledger: killed anywhere, it loses no example and its readers count none twice."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from tests.unit.ledger import making

from trimtab.bus import connect, port, publish, topics
from trimtab.core import examples, ledger
from trimtab.ledger import counting
from trimtab.ledger.store import database
from trimtab.wire import schemas

VOTES = 240
KILLED_AT = (10, 70, 140)
_COMMAND = (sys.executable, "-m", "trimtab.cli.app", "ledger")


def command(settings_of: dict[str, Any]) -> list[str]:
    flags = [part for name, value in settings_of.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return [*_COMMAND, *flags]


@contextlib.contextmanager
def running(settings_of: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """The ledger process; killed at the end, whatever it is doing."""
    process = subprocess.Popen(command(settings_of), stderr=subprocess.DEVNULL)
    try:
        yield process
        assert process.poll() is None, "the ledger ended by itself"
    finally:
        process.kill()
        process.wait()


def written(log: port.EventLog) -> int:
    return sum(log.end_offsets(topics.EXAMPLES.name).values())


def wait_for(log: port.EventLog, records: int) -> None:
    deadline = time.monotonic() + 60
    while written(log) < records:
        assert time.monotonic() < deadline, f"{written(log)} of {records} examples after a minute"
        threading.Event().wait(0.002)


def vote(log: port.EventLog) -> None:
    """Votes and answers of many sessions, one durable record after the other; some votes twice, some first."""
    for number in range(VOTES):
        answer = making.completion(f"s{number % 40}", number)
        thumb = making.thumb(answer)
        values = (thumb, answer, thumb) if number % 3 == 0 else (answer, thumb)
        for value in values:
            topic = topics.FEEDBACK if value is thumb else topics.COMPLETIONS
            publish.publish(log, topic, answer.context.session_hash, value).result()


def once(log: port.EventLog) -> list[examples.Example]:
    """What a reader keeps that drops what it has seen of each partition."""
    ends = log.end_offsets(topics.EXAMPLES.name)
    reader = log.reader(dict.fromkeys(ends, 0))
    kept: list[examples.Example] = []
    seen: dict[int, int] = {}
    read = 0
    while read < sum(ends.values()):
        for record in reader.poll(1000, 5.0):
            read += 1
            example = schemas.decode(record.value, record.headers, examples.Example)
            if example.sequence > seen.get(example.partition, 0):
                assert example.sequence == seen.get(example.partition, 0) + 1, "a gap"
                seen[example.partition] = example.sequence
                kept.append(example)
    reader.close()
    return kept


def test_a_ledger_killed_again_and_again_publishes_each_vote_once(settings_of: dict[str, Any]) -> None:
    log = connect.open_log(settings_of["log_url"])
    voter = threading.Thread(target=vote, args=(log,))
    voter.start()
    for records in KILLED_AT:
        with running(settings_of):
            wait_for(log, records)
    voter.join()
    with running(settings_of):
        wait_for(log, VOTES)
        deadline = time.monotonic() + 60
        while len({example.id for example in once(log)}) < VOTES:
            assert time.monotonic() < deadline
    kept = once(log)
    assert len(kept) == VOTES
    assert len({example.responses for example in kept}) == VOTES
    store = database.Database(settings_of["database"])
    counts = counting.counts(store, ledger.CountsRequest(making.TENANT, making.LINE))
    store.close()
    log.close()
    assert (counts.joined, counts.examples, counts.duplicates, counts.waiting) == (VOTES, VOTES, VOTES // 3, 0)
