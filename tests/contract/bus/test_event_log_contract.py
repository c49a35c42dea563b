"""What every event log promises, whichever adapter it is."""

import concurrent.futures
import datetime
import queue
import threading
import time

import pytest
from tests.broker import cleaning

from trimtab.bus import port, topics
from trimtab.core import clock, errors, ids

EXAMPLES = [port.TopicPartition("examples", partition) for partition in range(topics.EXAMPLES.partitions)]
MODELS = port.TopicPartition("models", 0)
FROM_THE_START = dict.fromkeys(EXAMPLES, 0)


def append(log: port.EventLog, topic: str, key: bytes, value: bytes, **more: object) -> port.Position:
    (position,) = log.append([port.NewRecord(topic, key, value, **more)]).result()  # type: ignore[arg-type]
    return position


def read_all(log: port.EventLog, start: dict[port.TopicPartition, int] | None = None) -> list[port.Record]:
    """Everything from `start` (topic `examples`) to the end the log has now."""
    reader = log.reader(FROM_THE_START if start is None else start)
    wanted = start or FROM_THE_START
    ends = {source: log.end_offsets(source.topic)[source] for source in wanted}
    records: list[port.Record] = []
    while any(reader.position(source) < end for source, end in ends.items()):
        records += reader.poll(500, 5.0)
    reader.close()
    return records


# --- what is read is what was appended ---


def test_a_record_comes_back_with_key_value_headers_position_and_the_time_the_log_took_it(log):
    before = clock.utc_now()
    position = append(log, "feedback", b"\x00key\xff", b"\x00value\xff", headers={"a": b"\x00\xff", "b": b""})
    source = port.TopicPartition("feedback", position.partition)
    (record,) = read_all(log, {source: 0})
    assert (record.key, record.value, record.headers) == (
        b"\x00key\xff",
        b"\x00value\xff",
        {"a": b"\x00\xff", "b": b""},
    )
    assert (record.source, record.offset) == (source, position.offset)
    tolerance = datetime.timedelta(milliseconds=2)
    assert before - tolerance <= record.timestamp <= clock.utc_now() + tolerance


def test_records_of_one_key_keep_their_order_in_one_partition(log):
    waiting = [log.append([port.NewRecord("examples", f"k{n % 7}".encode(), str(n).encode())]) for n in range(700)]
    concurrent.futures.wait(waiting)
    seen: dict[bytes, list[int]] = {}
    partitions: dict[bytes, set[int]] = {}
    for record in read_all(log):
        seen.setdefault(record.key, []).append(int(record.value))
        partitions.setdefault(record.key, set()).add(record.partition)
    assert all(numbers == sorted(numbers) and len(numbers) == 100 for numbers in seen.values())
    assert partitions == {key: {ids.partition_of(key, 8)} for key in seen}


def test_keys_spread_over_partitions_and_a_named_partition_wins_over_the_key(log):
    assert len({append(log, "examples", str(n).encode(), b"").partition for n in range(100)}) == 8
    chosen = [append(log, "examples", b"same key", b"", partition=partition).partition for partition in range(8)]
    assert chosen == list(range(8))


def test_offsets_rise_by_partition_from_zero_and_end_offsets_say_what_comes_next(log):
    positions = [append(log, "examples", b"k", b"", partition=3) for _ in range(4)]
    assert [position.offset for position in positions] == [0, 1, 2, 3]
    ends = log.end_offsets("examples")
    assert ends == {source: 4 if source.partition == 3 else 0 for source in EXAMPLES}
    assert log.partitions("examples") == 8


def test_records_appended_together_get_positions_in_their_order(log):
    batch = [port.NewRecord("examples", b"k", str(n).encode(), partition=n % 2) for n in range(6)]
    positions = log.append(batch).result()
    by_place = {(record.partition, record.offset): record.value for record in read_all(log)}
    assert [by_place[position.partition, position.offset] for position in positions] == [
        b"0",
        b"1",
        b"2",
        b"3",
        b"4",
        b"5",
    ]


def test_an_append_of_nothing_is_done(log):
    assert log.append([]).result() == []


def test_a_record_of_the_largest_size_is_taken_and_one_byte_more_is_refused(log):
    largest = bytes(topics.EXAMPLES.max_bytes)
    position = append(log, "examples", b"k", largest)
    (record,) = read_all(log, {EXAMPLES[position.partition]: position.offset})
    assert record.value == largest
    with pytest.raises(errors.InvalidField, match="`value` is 8388609 bytes and topic examples takes 8388608"):
        log.append([port.NewRecord("examples", b"k", largest + b"x")])


def test_a_wrong_topic_partition_or_oversized_headers_is_refused_at_once_and_by_name(log):
    with pytest.raises(errors.InvalidField, match="`topic` 'exampels' does not exist"):
        log.append([port.NewRecord("exampels", b"", b"")])
    with pytest.raises(errors.InvalidField, match="`partition` 8 is not one of examples; use 0 to 7"):
        log.append([port.NewRecord("examples", b"", b"", partition=8)])
    with pytest.raises(errors.InvalidField, match="`headers` and key are over"):
        log.append([port.NewRecord("examples", b"", b"", headers={"h": bytes(70_000)})])
    with pytest.raises(errors.InvalidField, match="`topic`"):
        log.end_offsets("exampels")
    assert sum(log.end_offsets("examples").values()) == 0


# --- reading ---


def test_a_reader_starts_where_it_is_told_and_seeks_back_and_forth(log):
    for n in range(10):
        append(log, "models", str(n).encode(), str(n).encode())
    reader = log.reader({MODELS: 7})
    assert [record.offset for record in reader.poll(10, 1.0)] == [7, 8, 9]
    assert reader.position(MODELS) == 10
    reader.seek(MODELS, 2)
    assert reader.position(MODELS) == 2
    assert [record.offset for record in reader.poll(3, 1.0)] == [2, 3, 4]
    assert [record.offset for record in reader.poll(3, 1.0)] == [5, 6, 7]
    reader.close()


def test_readers_do_not_disturb_each_other(log):
    append(log, "models", b"k", b"v")
    first, second = log.reader({MODELS: 0}), log.reader({MODELS: 0})
    assert first.poll(10, 1.0) == second.poll(10, 1.0) != []


def test_every_partition_gets_its_turn_while_another_is_never_empty(log):
    log.append([port.NewRecord("examples", b"", b"busy", partition=0) for _ in range(50)]).result()
    append(log, "examples", b"", b"quiet", partition=7)
    reader = log.reader(FROM_THE_START)
    values = [record.value for _ in range(3) for record in reader.poll(10, 1.0)]
    assert b"quiet" in values


def test_a_poll_without_news_returns_nothing_after_its_timeout(log):
    reader = log.reader({MODELS: 0})
    started = time.monotonic()
    assert reader.poll(10, 0.05) == []
    assert time.monotonic() - started >= 0.05
    assert reader.poll(10, 0.0) == []


def test_a_blocking_read_wakes_up_when_another_process_appends(log, children):
    child = children.start("together", "other", 1)
    reader = log.reader(FROM_THE_START)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        polling = pool.submit(reader.poll, 10, 30.0)
        started = time.monotonic()
        child.go()
        (record,) = polling.result()
    assert record.value == b"other 0"
    assert time.monotonic() - started < 15.0


def test_a_position_beyond_the_end_is_another_logs_and_not_waited_at(log):
    append(log, "models", b"k", b"v")
    reader = log.reader({MODELS: 2})
    with pytest.raises(errors.WrongState, match="models/0@2 and the log ends at 1"):
        reader.poll(10, 0.0)


def test_only_assigned_partitions_can_be_sought(log):
    with pytest.raises(errors.InvalidField, match="models/0 is not assigned"):
        log.reader({EXAMPLES[0]: 0}).seek(MODELS, 0)


# --- clean-up ---


def kept_of(log: port.EventLog, source: port.TopicPartition) -> list[port.Record]:
    """Without what cleaning itself has to append on Kafka."""
    return [record for record in read_all(log, {source: 0}) if record.key != cleaning.FILLER]


def values_of(log: port.EventLog, source: port.TopicPartition) -> list[bytes]:
    return [record.value for record in kept_of(log, source)]


@pytest.mark.cleans
def test_compaction_keeps_the_newest_record_of_every_key_and_leaves_its_offset(adapter, log):
    for n in range(1200):
        log.append([port.NewRecord("models", f"k{n % 3}".encode(), str(n).encode())])
    append(log, "models", b"last", b"last")
    adapter.clean(log)
    kept = kept_of(log, MODELS)
    assert [(record.offset, record.value) for record in kept] == [
        (1197, b"1197"), (1198, b"1198"), (1199, b"1199"), (1200, b"last"),
    ]  # fmt: skip


@pytest.mark.cleans
def test_a_tombstone_is_seen_for_a_day_and_then_gone_with_its_key(adapter, log):
    append(log, "models", b"gone", b"value")
    append(log, "models", b"stays", b"value")
    append(log, "models", b"gone", b"")
    adapter.clean(log)
    assert values_of(log, MODELS) == [b"value", b""]
    adapter.clean(log, later=datetime.timedelta(days=1, seconds=1))
    assert values_of(log, MODELS) == [b"value"]


@pytest.mark.cleans
def test_retention_removes_what_is_too_old_and_nothing_younger(adapter, log):
    for _ in range(600):
        log.append([port.NewRecord("examples", b"k", b"old", partition=2)])
    append(log, "audit", b"tenant", b"kept for ever")
    append(log, "models", b"k", b"kept while newest")
    adapter.clean(log, later=datetime.timedelta(days=topics.EXAMPLES.retention_days - 1))
    append(log, "examples", b"k", b"young", partition=2)
    assert len(values_of(log, EXAMPLES[2])) == 601
    adapter.clean(log, later=datetime.timedelta(days=2))
    assert values_of(log, EXAMPLES[2]) == [b"young"]
    assert values_of(log, port.TopicPartition("audit", 0)) == [b"kept for ever"]
    assert values_of(log, MODELS) == [b"kept while newest"]


@pytest.mark.cleans
def test_offsets_are_never_used_again_after_everything_was_removed_and_the_log_reopened(adapter, log):
    for _ in range(3):
        append(log, "examples", b"k", b"v", partition=0)
    adapter.clean(log, later=datetime.timedelta(days=400))
    assert log.end_offsets("examples")[EXAMPLES[0]] == 3
    log.close()
    again = adapter.open()
    assert append(again, "examples", b"k", b"w", partition=0).offset == 3
    assert values_of(again, EXAMPLES[0]) == [b"w"]


@pytest.mark.cleans
def test_a_reader_passes_over_gaps_and_its_position_too(adapter, log):
    for n in range(5):
        append(log, "models", b"same", str(n).encode())
    append(log, "examples", b"k", b"v", partition=0)
    adapter.clean(log, later=datetime.timedelta(days=400))
    reader = log.reader({MODELS: 1, EXAMPLES[0]: 0})
    end, found = log.end_offsets("models")[MODELS], []
    while reader.position(MODELS) < end:
        found += [record.value for record in reader.poll(10, 1.0) if record.key != cleaning.FILLER]
    assert found == [b"4"]
    assert reader.position(EXAMPLES[0]) == 1


# --- several processes, restart, crash ---


def test_nothing_of_several_producer_processes_is_lost_and_each_keeps_its_order(log, children):
    started = [children.start("together", name, 400) for name in ("a", "b", "c")]
    for child in started:
        child.go()
    here = [log.append([port.NewRecord("examples", f"d-{n % 5}".encode(), f"d {n}".encode())]) for n in range(400)]
    concurrent.futures.wait(here)
    assert [child.rest() for child in started] == [["done"]] * 3
    seen: dict[bytes, list[int]] = {}
    for record in read_all(log):
        seen.setdefault(record.key, []).append(int(record.value.split()[1]))
    assert sorted(seen) == sorted(f"{name}-{n}".encode() for name in "abcd" for n in range(5))
    for key, numbers in seen.items():
        assert numbers == list(range(int(key[2:]), 400, 5))


def test_a_reader_sees_every_record_in_order_while_another_process_appends(log, children):
    child = children.start("together", "live", 1000)
    reader = log.reader(FROM_THE_START)
    child.go()
    seen: dict[bytes, list[int]] = {}
    while sum(map(len, seen.values())) < 1000:
        for record in reader.poll(50, 30.0):
            seen.setdefault(record.key, []).append(int(record.value.split()[1]))
    assert all(numbers == list(range(int(key[-1:]), 1000, 5)) for key, numbers in seen.items())


def test_everything_is_there_after_a_restart_and_offsets_go_on(adapter, log):
    for n in range(10):
        append(log, "examples", b"k", str(n).encode(), partition=1)
    log.close()
    again = adapter.open()
    assert values_of(again, EXAMPLES[1]) == [str(n).encode() for n in range(10)]
    assert append(again, "examples", b"k", b"", partition=1).offset == 10


def test_everything_a_killed_writer_was_told_is_stored_is_there(log, children):
    child = children.start("serial", "doomed", 100_000)
    child.go()
    acknowledged = [child.line() for _ in range(100)]
    child.process.kill()
    acknowledged += child.rest()
    stored = {record.value for record in read_all(log)}
    assert len(acknowledged) >= 100
    assert {f"doomed {n}".encode() for n in acknowledged} <= stored
    assert append(log, "examples", b"k", b"the log still takes records").offset >= 0


def test_close_stores_what_was_accepted(adapter, log):
    waiting = [log.append([port.NewRecord("examples", b"k", b"v")]) for _ in range(500)]
    log.close()
    assert all(len(future.result(timeout=0)) == 1 for future in waiting)
    assert len(read_all(adapter.open())) == 500


def test_a_closed_log_takes_nothing_and_says_so(log):
    reader = log.reader({MODELS: 0})
    log.close()
    log.close()
    with pytest.raises(errors.LogUnavailable):
        log.append([port.NewRecord("models", b"k", b"v")]).result()
    with pytest.raises(errors.LogUnavailable):
        reader.poll(1, 0.0)


def test_closing_wakes_a_blocked_reader(log):
    reader = log.reader({MODELS: 0})
    polled = threading.Event()

    def poll() -> None:
        polled.set()
        reader.poll(1, 60.0)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        polling = pool.submit(poll)
        polled.wait()
        log.close()
        with pytest.raises(errors.LogUnavailable):
            polling.result(timeout=30)


# --- a fault of its own ---


def test_a_fault_in_its_own_thread_is_told_and_nothing_is_taken_any_more(adapter):
    log = adapter.open()
    append(log, "examples", b"k", b"before")
    told: queue.Queue[BaseException] = queue.Queue()
    log.on_fault(told.put)
    adapter.break_a_thread(log)
    with pytest.raises(errors.LogUnavailable):
        log.append([port.NewRecord("examples", b"k", b"v")]).result(timeout=60)
    problem = told.get(timeout=60)
    with pytest.raises(errors.LogUnavailable, match="ended in this process by a fault of ours"):
        log.append([port.NewRecord("examples", b"k", b"v")]).result(timeout=60)
    log.on_fault(told.put)  # who asks late hears of it, too
    assert told.get_nowait() is problem
    log.close()
