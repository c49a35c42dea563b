"""A consumer has three outcomes (done, not now, never), and its positions move with its effects."""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import math
import threading

import prometheus_client
import pytest
from tests.unit.bus import conftest

from trimtab.bus import deadletter, letters, port, publish, runner, topics
from trimtab.core import audit, errors
from trimtab.wire import schemas

AT = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
AUDIT = port.TopicPartition("audit", 0)


class StoreBroke(Exception):
    pass


def fill(log, values, topic="audit", partition=0):
    log.append([port.NewRecord(topic, b"k", value, {"h": b"1"}, partition) for value in values]).result()


def run(log, store, *, until=None, batch=500, limit=None, subscribed=(topics.AUDIT,)):
    """Runs until the record with value `until` is applied (its transaction still commits) or something comes out."""
    stop = threading.Event()
    on_record = store.on_record

    def stop_at_the_last(record):
        on_record(record)
        if record.value == until:
            stop.set()

    store.on_record = stop_at_the_last
    pace = runner.Batch(max_records=batch, poll_s=0.05)
    consumer = runner.Runner(log, subscribed, store, consumer="joins", batch=pace, limit=limit)
    too_long = threading.Timer(60.0, stop.set)
    too_long.start()
    try:
        consumer.run(stop)
    finally:
        too_long.cancel()
        store.on_record = on_record


def dead_letters(log):
    with contextlib.closing(log.reader({port.TopicPartition("deadletter", 0): 0})) as reader:
        said = [letters.read(found) for found in reader.poll(500, 0.0)]
    return [one for one in said if isinstance(one, audit.DeadLetter)]


def halted(log):
    with contextlib.closing(letters.Letters(log)) as known:
        known.refresh()
        return known.halted


def refuse(*values, problem):
    def on_record(record):
        if record.value in values:
            raise problem

    return on_record


# --- done ---


def test_every_record_is_handled_once_and_in_order_and_the_position_stands_behind_the_last(log, store):
    fill(log, [str(n).encode() for n in range(20)])
    run(log, store, until=b"19")
    assert store.values() == [str(n).encode() for n in range(20)]
    assert store.positions() == {AUDIT: 20}


def test_a_poll_is_one_transaction(log, store):
    fill(log, [str(n).encode() for n in range(300)])
    run(log, store, until=b"299", batch=100)
    assert store.commits == 3


def test_a_restart_goes_on_where_the_store_stands(log, store):
    fill(log, [b"0", b"1", b"2"])
    run(log, store, until=b"2")
    fill(log, [b"3", b"4"])
    run(log, store, until=b"4")
    assert store.values() == [b"0", b"1", b"2", b"3", b"4"]


def test_several_topics_feed_one_handler(log, store):
    fill(log, [b"a"], topic="feedback", partition=5)
    fill(log, [b"b"], topic="completions", partition=2)
    stop = threading.Event()
    store.on_record = lambda record: stop.set() if len(store.values()) == 2 else None
    runner.Runner(log, [topics.FEEDBACK, topics.COMPLETIONS], store, consumer="joins").run(stop)
    assert sorted(store.values()) == [b"a", b"b"]
    assert store.positions() == {port.TopicPartition("feedback", 5): 1, port.TopicPartition("completions", 2): 1}


def test_a_stop_ends_a_runner_that_has_nothing_to_do(log, store):
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(runner.Runner(log, [topics.AUDIT], store, consumer="joins").run, stop)
        stop.set()
        running.result(timeout=30)


# --- anything else ---


def test_any_other_exception_stops_the_runner_and_nothing_of_its_batch_is_kept(log, store):
    fill(log, [b"0", b"1", b"2"])
    store.on_record = refuse(b"1", problem=StoreBroke())
    with pytest.raises(StoreBroke):
        run(log, store)
    assert (store.values(), store.positions()) == ([], {})
    store.on_record = lambda record: None
    run(log, store, until=b"2")
    assert store.values() == [b"0", b"1", b"2"]


# --- not now ---


def test_a_record_for_later_is_met_again_before_any_that_stands_behind_it(log, store):
    fill(log, [b"0", b"1", b"2", b"3"])
    met = []

    def not_the_first_two_times(record):
        met.append(record.value)
        if record.value == b"2" and met.count(b"2") < 4:
            raise runner.NotNow("the scorer is away", delay_s=0.0)

    store.on_record = not_the_first_two_times
    run(log, store, until=b"3")
    assert store.values() == [b"0", b"1", b"2", b"3"]
    assert met.index(b"3") > len(met) - 2
    assert dead_letters(log) == []


def test_what_stands_before_a_record_for_later_is_committed_while_it_waits(log, store):
    fill(log, [b"0", b"1", b"2"])
    stop = threading.Event()

    def never_ready(record):
        if record.value == b"2":
            if store.values() == [b"0", b"1", b"2"] and store.commits:
                stop.set()  # met alone, after the others were committed
            raise runner.NotNow("not yet", delay_s=0.0)

    store.on_record = never_ready
    runner.Runner(log, [topics.AUDIT], store, consumer="joins").run(stop)
    assert (store.values(), store.positions()) == ([b"0", b"1"], {AUDIT: 2})


def test_a_commit_that_happened_although_it_failed_is_not_done_twice(log, store):
    fill(log, [b"0", b"1"])

    def answer_lost():
        if store.commits == 1:
            raise runner.NotNow("the connection broke", delay_s=0.0)

    store.after_commit = answer_lost
    fill(log, [b"2"])
    run(log, store, until=b"2", batch=2)
    assert store.values() == [b"0", b"1", b"2"]


def test_a_handler_whose_append_fails_meets_the_record_again(log, store):
    fill(log, [b"0"])
    failures = iter([errors.LogUnavailable("away")])

    def append_fails_once(record):
        for problem in failures:
            raise problem

    store.on_record = append_fails_once
    run(log, store, until=b"0")
    assert store.values() == [b"0"]


# --- never ---


def test_a_record_refused_for_ever_is_a_dead_letter_with_its_bytes_place_and_reason_and_the_rest_goes_on(log, store):
    fill(log, [b"0", b"\xffbad", b"2"])
    store.on_record = refuse(b"\xffbad", problem=runner.Never("It names no session."))
    run(log, store, until=b"2")
    assert store.values() == [b"0", b"2"]
    assert store.positions() == {AUDIT: 3}
    (letter,) = dead_letters(log)
    assert (letter.topic, letter.partition, letter.offset) == ("audit", 0, 1)
    assert (letter.key, letter.value, letter.headers) == (b"k", b"\xffbad", {"h": b"1"})
    assert (letter.consumer, letter.reason) == ("joins", "It names no session.")


def test_bytes_that_cannot_be_decoded_are_refused_for_ever(log, store):
    fill(log, [b"\xff\xff", b"end"])

    def decode(record):
        if record.value != b"end":
            schemas.decode(record.value, record.headers, audit.AuditRecord)

    store.on_record = decode
    run(log, store, until=b"end")
    (letter,) = dead_letters(log)
    assert "schema header" in letter.reason


def test_the_dead_letter_is_durable_before_the_position_moves_past_its_record(log, store):
    fill(log, [b"bad", b"end"])
    letters_at_save = []
    store.on_save = lambda positions: letters_at_save.append((positions[AUDIT], len(dead_letters(log))))
    store.on_record = refuse(b"bad", problem=runner.Never("It is bad."))
    run(log, store, until=b"end")
    assert letters_at_save == [(1, 1), (2, 1)]


def test_the_largest_record_there_is_fits_into_a_dead_letter(log, store):
    largest = bytes(topics.COMPLETIONS.max_bytes)
    log.append([port.NewRecord("completions", bytes(65_000), largest, partition=0)]).result()
    fill(log, [b"end"], topic="completions")
    store.on_record = refuse(largest, problem=runner.Never("x" * 100_000))
    run(log, store, until=b"end", subscribed=(topics.COMPLETIONS,))
    assert dead_letters(log)[0].value == largest


def test_too_many_refusals_in_a_row_halt_the_runner_before_the_next_one(log, store):
    fill(log, [b"good"] + [b"bad"] * 5)
    store.on_record = refuse(b"bad", problem=runner.Never("It is bad."))
    with pytest.raises(deadletter.TooManyDeadLetters, match=r"halts before audit/0@4: 3 records in a row.*It is bad\."):
        run(log, store, limit=deadletter.Limit(consecutive=3))
    assert [letter.offset for letter in dead_letters(log)] == [1, 2, 3]
    assert store.positions() == {AUDIT: 4}
    store.on_record = lambda record: None
    fill(log, [b"end"])
    run(log, store, until=b"end")
    assert store.values() == [b"good", b"bad", b"bad", b"end"]
    assert halted(log) == {}


def test_a_consumer_that_halted_and_is_started_again_uncorrected_halts_at_once_and_writes_no_letter(log, store):
    fill(log, [b"bad"] * 9)
    store.on_record = refuse(b"bad", problem=runner.Never("It is bad."))
    for said in ("3 records in a row", "halted before audit/0@3 and has not handled that yet", "halted before"):
        with pytest.raises(deadletter.TooManyDeadLetters, match=f"before audit/0@3: .*{said}"):
            run(log, store, limit=deadletter.Limit(consecutive=3))
        assert (len(dead_letters(log)), store.positions()) == (3, {AUDIT: 3})
    assert [one.offset for one in halted(log).values()] == [3]


def test_records_of_elsewhere_do_not_end_a_halt(log, store):
    fill(log, [b"bad"] * 9)
    store.on_record = refuse(b"bad", problem=runner.Never("It is bad."))
    both = (topics.FEEDBACK, topics.AUDIT)
    for elsewhere in ([], [b"good"] * 9):
        fill(log, elsewhere, topic="feedback")
        with pytest.raises(deadletter.TooManyDeadLetters):
            run(log, store, limit=deadletter.Limit(consecutive=3), subscribed=both)
    assert store.values() == [b"good"] * 9
    assert (len(dead_letters(log)), store.positions()[AUDIT], list(halted(log))) == (3, 3, ["joins"])


def test_a_halted_consumer_buries_not_even_what_was_replayed(log, store):
    fill(log, [b"bad"])
    store.on_record = refuse(b"bad", problem=runner.Never("It is bad."))
    with pytest.raises(deadletter.TooManyDeadLetters):
        run(log, store, limit=deadletter.Limit(consecutive=0))
    replayed = {letters.REPLAYED_FROM: b"feedback/0@7"}
    log.append([port.NewRecord("feedback", b"k", b"bad", replayed, 0)]).result()
    with pytest.raises(deadletter.TooManyDeadLetters):
        run(log, store, subscribed=(topics.FEEDBACK, topics.AUDIT))
    assert dead_letters(log) == []


def test_an_operator_lets_a_halted_consumer_write_so_many_more(log, store):
    fill(log, [b"bad"] * 9 + [b"end"])
    store.on_record = refuse(b"bad", problem=runner.Never("It is bad."))
    with pytest.raises(deadletter.TooManyDeadLetters) as raised:
        run(log, store, limit=deadletter.Limit(consecutive=3))
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(raised.value.wait, stop)
        word = audit.ConsumerResumed("joins", AT, "operator", "a broken import", letters=6)
        publish.publish(log, topics.DEADLETTER, b"joins", word).result()
        assert waiting.result(timeout=30)
    run(log, store, until=b"end", limit=deadletter.Limit(consecutive=3))
    assert (store.values(), len(dead_letters(log)), halted(log)) == ([b"end"], 9, {})


def test_the_word_of_an_operator_lasts_for_so_many_letters_and_no_more(log, store):
    fill(log, [b"bad"] * 9)
    store.on_record = refuse(b"bad", problem=runner.Never("It is bad."))
    publish.publish(log, topics.DEADLETTER, b"joins", audit.ConsumerResumed("joins", AT, "o", "why", 4)).result()
    with pytest.raises(deadletter.TooManyDeadLetters, match="before audit/0@6: 2 records"):
        run(log, store, limit=deadletter.Limit(consecutive=2))


def test_a_halted_consumer_that_is_told_to_end_ends(log, store):
    fill(log, [b"bad"] * 2)
    store.on_record = refuse(b"bad", problem=runner.Never("It is bad."))
    with pytest.raises(deadletter.TooManyDeadLetters) as raised:
        run(log, store, limit=deadletter.Limit(consecutive=1))
    stop = threading.Event()
    stop.set()
    assert not raised.value.wait(stop)


def test_what_has_its_letter_is_passed_over_by_a_store_that_is_made_again(log, store, tmp_path):
    fill(log, [b"bad", b"good"] * 3 + [b"end"])
    store.on_record = refuse(b"bad", problem=runner.Never("It is bad."))
    run(log, store, until=b"end")
    with contextlib.closing(conftest.Store(tmp_path / "again.db")) as again:
        again.on_record = store.on_record
        run(log, again, until=b"end", limit=deadletter.Limit(consecutive=1))
        assert again.values() == store.values()
    assert len(dead_letters(log)) == 3


def test_a_record_larger_than_its_topic_takes_is_refused_unseen_and_its_letter_carries_its_beginning(
    log, store, monkeypatch
):
    huge = bytes(range(256)) * 40_000
    monkeypatch.setitem(topics.ALL, "audit", dataclasses.replace(topics.AUDIT, max_bytes=len(huge)))
    fill(log, [huge, b"end"])
    monkeypatch.undo()
    run(log, store, until=b"end")
    (letter,) = dead_letters(log)
    assert (letter.reason, letter.value_bytes) == ("It is 10240000 bytes and topic audit takes 65536.", len(huge))
    assert (letter.value, letter.key) == (huge[: deadletter.BEGINNING_BYTES], b"k")
    assert store.values() == [b"end"]


def test_a_record_with_more_beside_its_value_than_a_letter_can_carry_is_refused_too(log, store, monkeypatch):
    monkeypatch.setattr(port, "MAX_KEY_AND_HEADERS_BYTES", 10_000_000)
    log.append([port.NewRecord("audit", b"k" * 9_000_000, b"v", {"h": b"x" * 900_000})]).result()
    monkeypatch.undo()
    fill(log, [b"end"])
    run(log, store, until=b"end")
    (letter,) = dead_letters(log)
    assert (
        letter.reason
        == f"Its key and headers are 9900001 bytes and a record may have {port.MAX_KEY_AND_HEADERS_BYTES}."
    )
    assert (len(letter.key), letter.headers, letter.value_bytes) == (deadletter.BEGINNING_BYTES, {}, 1)


def test_a_handled_record_ends_the_row(log, store):
    fill(log, [b"bad", b"bad", b"good"] * 5 + [b"end"])
    store.on_record = refuse(b"bad", problem=runner.Never("It is bad."))
    run(log, store, until=b"end", limit=deadletter.Limit(consecutive=3))
    assert len(dead_letters(log)) == 10


def test_too_large_a_share_of_refusals_halts_the_runner(log, store):
    fill(log, [b"bad", b"good"] * 10)
    store.on_record = refuse(b"bad", problem=runner.Never("It is bad."))
    with pytest.raises(deadletter.TooManyDeadLetters, match="more than 25% of the last 20 records"):
        run(log, store, limit=deadletter.Limit(window=20, share=0.25))
    assert len(dead_letters(log)) == 5
    assert store.positions() == {AUDIT: 10}


def test_a_share_within_the_limit_never_halts_however_long_it_goes_on(log, store):
    fill(log, ([b"bad"] + [b"good"] * 4) * 30 + [b"end"])
    store.on_record = refuse(b"bad", problem=runner.Never("It is bad."))
    run(log, store, until=b"end", limit=deadletter.Limit(window=20, share=0.25))
    assert len(dead_letters(log)) == 30


class DeadLettersAway:
    """A log whose topic `deadletter` cannot be written; the rest is the real one's."""

    def __init__(self, log, stop):
        self._log = log
        self._stop = stop

    def append(self, records):
        self._stop.set()
        failed = concurrent.futures.Future()
        failed.set_exception(errors.LogUnavailable("away"))
        return failed

    def reader(self, start):
        return self._log.reader(start)

    def end_offsets(self, topic):
        return self._log.end_offsets(topic)


def test_the_position_stays_while_the_dead_letter_cannot_be_written(log, store):
    fill(log, [b"0", b"bad", b"end"])
    store.on_record = refuse(b"bad", problem=runner.Never("It is bad."))
    stop = threading.Event()
    runner.Runner(DeadLettersAway(log, stop), [topics.AUDIT], store, consumer="joins").run(stop)
    assert (store.values(), store.positions()) == ([b"0"], {AUDIT: 1})
    run(log, store, until=b"end")
    assert (store.values(), len(dead_letters(log))) == ([b"0", b"end"], 1)


def lag():
    return prometheus_client.REGISTRY.get_sample_value("trimtab_consumer_lag_records", {"consumer": "joins"})


def test_the_lag_is_that_of_the_moment_it_is_asked_for_also_of_a_consumer_that_halted(log, store):
    fill(log, [b"0", b"1", b"2"])
    run(log, store, until=b"2")
    assert lag() == 0
    fill(log, [b"bad", b"bad", b"bad", b"3"])
    assert lag() == 4
    store.on_record = refuse(b"bad", problem=runner.Never("It is bad."))
    with pytest.raises(deadletter.TooManyDeadLetters):
        run(log, store, limit=deadletter.Limit(consecutive=2))
    assert lag() == 2
    fill(log, [b"4"])
    assert lag() == 3


class Away:
    """A log that was there when the consumer began and is not now."""

    def __init__(self, log):
        self._log = log
        self.away = False

    def reader(self, start):
        return self._log.reader(start)

    def end_offsets(self, topic):
        if self.away:
            raise errors.LogUnavailable("away")
        return self._log.end_offsets(topic)


def test_the_lag_is_no_number_while_the_log_is_away(log, store):
    fill(log, [b"0"])
    run(leaving := Away(log), store, until=b"0")
    assert lag() == 0
    leaving.away = True
    assert math.isnan(lag())
