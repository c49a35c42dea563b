"""A replay killed around any of its appends, and tried again, has the effect of one, in ledger and trainer alike."""

import contextlib
import pathlib
import threading

import pytest
from tests.faults import killing, poison
from tests.faults.harness import disturbing
from tests.unit.ledger import making

from trimtab.bus import letters, port, publish, runner, settling, topics
from trimtab.bus.sqlite import SqliteLog
from trimtab.core import audit, ledger
from trimtab.ledger import consumer, counting, outbox
from trimtab.ledger.store import database
from trimtab.trainer.data import consumer as examples
from trimtab.trainer.data import store as trainer_store
from trimtab.wire import schemas

WALKED = [*killing.under("deadletter.")]
VOTES = 12
REFUSED = 5


def refuse(folder: pathlib.Path) -> None:
    """Votes that a ledger and a trainer have read, but for some of a version that is yet to come."""
    log = SqliteLog(folder / "log.db")
    for number, (answer, vote) in enumerate(poison.votes_and_answers(VOTES)):
        publish.publish(log, topics.COMPLETIONS, answer.context.session_hash, answer).result()
        newer = poison.poisoned("newer version", vote)
        log.append([newer if number < REFUSED else publish.new_record(topics.FEEDBACK, newer.key, vote)]).result()
    _settle(folder, log, VOTES - REFUSED)
    log.close()


def replay(folder: pathlib.Path) -> None:
    log = SqliteLog(folder / "log.db")
    with contextlib.closing(letters.Letters(log)) as known:
        known.refresh()
        act = settling.Act(making.TENANT, "ada", "it is read by now")
        settling.Desk(log, known, act).replay([place for place, _ in known.entries])
    log.close()


def replay_and_read(folder: pathlib.Path) -> None:
    """Tried again, and again, before consumers of the version after this one."""
    replay(folder)
    replay(folder)
    disturbing.read_next_version()
    log = SqliteLog(folder / "log.db")
    _settle(folder, log, VOTES)
    log.close()


def _settle(folder: pathlib.Path, log: SqliteLog, wanted: int) -> None:
    """A ledger, its outbox and a trainer, each to the end of what there is."""
    store, kept = _ledger(folder), trainer_store.Store(folder / "trainer.db")
    caught_up = threading.Event()
    consumer.run(log, store, making.NoArtifacts(), on_emitted=lambda: None, on_caught_up=caught_up.set, stop=caught_up)
    while outbox.Publisher(log, store).publish_some():
        pass
    stop = threading.Event()
    reading = runner.Runner(log, [topics.EXAMPLES], examples.Examples(kept), consumer="trainer")
    thread = threading.Thread(target=reading.run, args=(stop,))
    thread.start()
    try:
        for _ in range(1000):
            with kept.reading() as connection:
                if trainer_store.newest_arrival(connection) >= wanted:
                    return
            stop.wait(0.02)
        raise AssertionError("the trainer has not read what the ledger published")
    finally:
        stop.set()
        thread.join()
        store.close()
        kept.close()


def _ledger(folder: pathlib.Path) -> database.Database:
    return database.Database(f"sqlite:///{folder / 'ledger.db'}")


@pytest.mark.parametrize("point", [f"{point}:{nth}" for point in WALKED for nth in (1, 3)])
def test_every_record_is_replayed_and_counted_once(point: str, tmp_path: pathlib.Path) -> None:
    killing.run(refuse, tmp_path)
    killing.kill(point, replay, tmp_path)
    killing.run(replay_and_read, tmp_path)
    store = _ledger(tmp_path)
    counts = counting.counts(store, ledger.CountsRequest(making.TENANT, making.LINE))
    store.close()
    assert (counts.joined, counts.examples, counts.duplicates, counts.waiting) == (VOTES, VOTES, 0, 0)
    kept = trainer_store.Store(tmp_path / "trainer.db")
    with kept.reading() as connection:
        assert trainer_store.newest_arrival(connection) == VOTES
    kept.close()
    log = SqliteLog(tmp_path / "log.db")
    with contextlib.closing(log.reader({port.TopicPartition("audit", 0): 0})) as reader:
        acts = [schemas.decode(one.value, one.headers, audit.AuditRecord) for one in reader.poll(99, 0.0)]
    assert sum(log.end_offsets(topics.FEEDBACK.name).values()) == VOTES + REFUSED
    log.close()
    assert len({act.target for act in acts}) == len(acts) == REFUSED
