"""A fold rebuilds its state from the topic's beginning, says when it has caught up, and keeps following."""

import concurrent.futures
import contextlib
import datetime
import threading

import pytest
from tests import timing

from trimtab.bus import deadletter, fold, port, publish, topics
from trimtab.bus.sqlite import SqliteLog
from trimtab.core import audit, errors
from trimtab.wire import schemas


def put(log, key, value):
    log.append([port.NewRecord("rollouts", key, value)]).result()


class Following:
    """A fold of `rollouts` into a dict, in a thread."""

    def __init__(self, log, refuses=()):
        self.state = {}
        self.at_catching_up = []
        self.caught_up = threading.Event()
        self.stop = threading.Event()
        self._refuses = refuses
        self._seen = {}
        self._pool = concurrent.futures.ThreadPoolExecutor()
        self.running = self._pool.submit(fold.follow, log, topics.ROLLOUTS, self._apply, self.stop, self._say)

    def _apply(self, record):
        if record.value in self._refuses:
            raise errors.MalformedRecord("It cannot be read.")
        self.state[record.key] = record.value
        self._seen.setdefault(record.value, threading.Event()).set()

    def _say(self):
        self.at_catching_up.append(dict(self.state))
        self.caught_up.set()

    def wait_for(self, value):
        assert self._seen.setdefault(value, threading.Event()).wait(timing.PATIENCE_S)

    def close(self):
        self.stop.set()
        self.running.result(timeout=30)
        self._pool.shutdown()


def following(log, **options):
    return contextlib.closing(Following(log, **options))


def test_it_says_so_once_when_all_that_stood_there_at_the_start_is_applied_and_goes_on(log):
    for n in range(1200):
        log.append([port.NewRecord("rollouts", f"r{n % 3}".encode(), str(n).encode())])
    put(log, b"last", b"last")
    with following(log) as fold_:
        assert fold_.caught_up.wait(timing.PATIENCE_S)
        put(log, b"r0", b"newer")
        fold_.wait_for(b"newer")
    assert fold_.at_catching_up == [{b"r0": b"1197", b"r1": b"1198", b"r2": b"1199", b"last": b"last"}]
    assert fold_.state[b"r0"] == b"newer"


def test_an_empty_topic_is_caught_up_with_at_once(log):
    with following(log) as fold_:
        assert fold_.caught_up.wait(timing.PATIENCE_S)
    assert fold_.at_catching_up == [{}]


def test_a_topic_whose_end_was_cleaned_away_is_caught_up_with(tmp_path):
    start = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
    times = [start]
    with contextlib.closing(SqliteLog(tmp_path / "cleaned.db", now=lambda: times[-1])) as log:
        put(log, b"r", b"v")
        log.append([publish.tombstone(topics.ROLLOUTS, b"r")]).result()
        times.append(start + datetime.timedelta(days=2))
        log.clean()
        with following(log) as fold_:
            assert fold_.caught_up.wait(timing.PATIENCE_S)
        assert fold_.at_catching_up == [{}]


def test_a_record_it_cannot_read_becomes_a_dead_letter_and_the_rest_is_applied(log):
    for key, value in [(b"a", b"1"), (b"b", b"bad"), (b"c", b"3")]:
        put(log, key, value)
    with following(log, refuses=(b"bad",)) as fold_:
        assert fold_.caught_up.wait(timing.PATIENCE_S)
    assert fold_.at_catching_up == [{b"a": b"1", b"c": b"3"}]
    with contextlib.closing(log.reader({port.TopicPartition("deadletter", 0): 0})) as reader:
        (found,) = reader.poll(10, 0.0)
    letter = schemas.decode(found.value, found.headers, audit.DeadLetter)
    assert (letter.consumer, letter.topic, letter.offset) == ("fold/rollouts", "rollouts", 1)
    assert (letter.value, letter.reason) == (b"bad", "It cannot be read.")


def test_a_topic_it_cannot_read_at_all_halts_it(log):
    for _ in range(deadletter.Limit().consecutive + 1):
        put(log, b"a", b"bad")
    fold_ = Following(log, refuses=(b"bad",))
    with pytest.raises(deadletter.TooManyDeadLetters, match="fold/rollouts"):
        fold_.running.result(timeout=30)
    assert not fold_.caught_up.is_set()


def test_a_published_record_reads_back_as_itself(log):
    letter = audit.DeadLetter(
        topic="feedback",
        partition=1,
        offset=2,
        key=b"k",
        value=b"v",
        headers={"h": b"\xff"},
        consumer="joins",
        reason="It is bad.",
        at=datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC),
    )
    (position,) = publish.publish(log, topics.DEADLETTER, b"feedback/1", letter).result()
    with contextlib.closing(log.reader({port.TopicPartition("deadletter", position.partition): 0})) as reader:
        (found,) = reader.poll(1, 0.0)
    assert schemas.decode(found.value, found.headers, audit.DeadLetter) == letter
