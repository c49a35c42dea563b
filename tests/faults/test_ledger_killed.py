"""A ledger killed around any of its commits makes every vote into one example, also while it is rebuilt."""

import contextlib
import pathlib
import threading
import time

import pytest
from tests.faults import killing
from tests.postgres.stores import Stores
from tests.unit.ledger import making

from trimtab.bus import port, publish, runner, topics
from trimtab.bus.sqlite import SqliteLog
from trimtab.core import examples, ledger
from trimtab.ledger import consumer, counting, outbox, restoring
from trimtab.ledger.store import database
from trimtab.ledger.store import examples as example_store
from trimtab.wire import schemas

WALKED = [*killing.under("ledger.")]
VOTES = 30


def vote(folder: pathlib.Path) -> None:
    """Votes before, after and between their answers, every third of them twice."""
    log = SqliteLog(folder / "log.db")
    records = []
    for number in range(VOTES):
        answer = making.completion(f"s{number % 7}", number)
        thumb = making.thumb(answer)
        for value in (thumb, answer, thumb) if number % 3 == 0 else (answer, thumb):
            topic = topics.FEEDBACK if value is thumb else topics.COMPLETIONS
            records.append(publish.new_record(topic, answer.context.session_hash, value))
    log.append(records).result()
    log.close()


def settle(folder: pathlib.Path, url: str) -> None:
    """The ledger's two threads, in small steps, until everything is joined and published."""
    consumer.BATCH, outbox.BATCH, restoring._POLL, restoring._SCOPES = runner.Batch(11, 0.05), 7, 9, 3
    log, store = SqliteLog(folder / "log.db"), database.Database(url)
    stop, caught_up = threading.Event(), threading.Event()
    publisher = outbox.Publisher(log, store)

    def consume() -> None:
        consumer.run(log, store, making.NoArtifacts(), on_emitted=publisher.wake, on_caught_up=caught_up.set, stop=stop)

    # daemons: the process ends when all is done, in the middle of whatever they do
    threading.Thread(target=consume, daemon=True).start()
    threading.Thread(target=publisher.run, args=(stop,), daemon=True).start()
    assert caught_up.wait(60)
    deadline = time.monotonic() + 60
    while _unpublished(store):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _unpublished(store: database.Database) -> bool:
    with store.read() as connection:
        return bool(example_store.unpublished(connection, 1))


def read_once(folder: pathlib.Path) -> list[examples.Example]:
    """What a reader keeps that drops what it has seen of each partition; a gap fails."""
    log = SqliteLog(folder / "log.db")
    kept: list[examples.Example] = []
    seen: dict[int, int] = {}
    places = {port.TopicPartition("examples", number): 0 for number in range(topics.EXAMPLES.partitions)}
    with contextlib.closing(log.reader(places)) as reader:
        while records := reader.poll(1000, 0.0):
            for record in records:
                example = schemas.decode(record.value, record.headers, examples.Example)
                if example.sequence > seen.get(example.partition, 0):
                    assert example.sequence == seen.get(example.partition, 0) + 1, "a gap"
                    seen[example.partition] = example.sequence
                    kept.append(example)
    log.close()
    return kept


def check_books(folder: pathlib.Path, url: str) -> None:
    kept = read_once(folder)
    assert len({example.feedback_id + example.id for example in kept}) == len(kept) == VOTES
    store = database.Database(url)
    counts = counting.counts(store, ledger.CountsRequest(making.TENANT, making.LINE))
    store.close()
    assert (counts.joined, counts.examples, counts.duplicates, counts.waiting) == (VOTES, VOTES, VOTES // 3, 0)


LIVE = [f"{point}:{nth}" for point in WALKED if "restore" not in point for nth in (1, 2)]


@pytest.mark.parametrize("point", LIVE)
def test_every_vote_becomes_one_example(point: str, tmp_path: pathlib.Path, stores: Stores) -> None:
    killing.run(vote, tmp_path)
    killing.kill(point, settle, tmp_path, stores.url())
    killing.run(settle, tmp_path, stores.url())
    check_books(tmp_path, stores.url())


@pytest.mark.parametrize("point", [f"{point}:2" for point in killing.under("ledger.restore.", "ledger.consume.")])
def test_a_rebuild_that_was_interrupted_tells_readers_nothing_twice(
    point: str, tmp_path: pathlib.Path, stores: Stores
) -> None:
    killing.run(vote, tmp_path)
    killing.run(settle, tmp_path, stores.url("lost"))
    before = read_once(tmp_path)
    killing.kill(point, settle, tmp_path, stores.url())
    killing.run(settle, tmp_path, stores.url())
    assert read_once(tmp_path) == before
    check_books(tmp_path, stores.url())
