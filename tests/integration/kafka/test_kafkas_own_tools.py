"""What an operator sees with the tools that Kafka brings: our consumers' lag, and our records."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import pytest
from tests import timing
from tests.broker import cluster

from trimtab.bus import kafka, port, runner, topics
from trimtab.bus.kafka import advice
from trimtab.core import errors
from trimtab.rpc import ports

Opened = Callable[..., kafka.KafkaLog]
AUDIT = port.TopicPartition("audit", 0)


class Seen:
    """A `runner.Handler` that stops its runner after so many records. Its store is real and keeps positions only."""

    def __init__(self, stop: threading.Event, enough: int) -> None:
        self._stop, self._left = stop, enough
        self._store = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._store.execute("CREATE TABLE positions (topic, partition, next, PRIMARY KEY (topic, partition))")

    def positions(self) -> dict[port.TopicPartition, int]:
        rows = self._store.execute("SELECT * FROM positions")
        return {port.TopicPartition(topic, partition): offset for topic, partition, offset in rows}

    @contextlib.contextmanager
    def transaction(self) -> Iterator["Seen"]:
        yield self

    def apply(self, record: port.Record) -> None:
        self._left -= 1
        if self._left == 0:
            self._stop.set()

    def save(self, positions: Mapping[port.TopicPartition, int]) -> None:
        rows = [(*source, offset) for source, offset in positions.items()]
        self._store.executemany("INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", rows)


def consume(log: kafka.KafkaLog, subscribed: list[topics.Topic], enough: int, batch: int) -> None:
    stop = threading.Event()
    pace = runner.Batch(max_records=batch, poll_s=0.1)
    runner.Runner(log, subscribed, Seen(stop, enough), consumer="joins", batch=pace).run(stop)


def lag(fresh: kafka.Cluster) -> dict[port.TopicPartition, tuple[int, int, int]]:
    """As `kafka-consumer-groups --describe` has it: by partition our position, the end, what is left."""
    asked = ("--bootstrap-server", fresh.servers[0], "--describe", "--group", f"{fresh.prefix}joins")
    said = cluster.run_java("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", *asked)
    found = {}
    for words in map(str.split, said.splitlines()):
        if words and words[0] == f"{fresh.prefix}joins":
            source = port.TopicPartition(words[1].removeprefix(fresh.prefix), int(words[2]))
            found[source] = (int(words[3]), int(words[4]), int(words[5]))
    return found


def test_kafkas_own_tool_shows_how_far_a_consumer_is_behind(fresh: kafka.Cluster, opened: Opened) -> None:
    kafka.create_topics(fresh)
    log = opened(fresh)
    for number in range(7):
        log.append([port.NewRecord("audit", b"tenant", str(number).encode())]).result()
    log.append([port.NewRecord("feedback", b"session", b"vote", partition=5)]).result()
    consume(log, [topics.AUDIT, topics.FEEDBACK], enough=8, batch=500)
    for number in range(3):
        log.append([port.NewRecord("audit", b"tenant", str(number).encode())]).result()
    log.close()  # publishes at once what is new
    shown = lag(fresh)
    assert shown[AUDIT] == (7, 10, 3)
    assert shown[port.TopicPartition("feedback", 5)] == (1, 1, 0)
    assert shown[port.TopicPartition("feedback", 0)] == (0, 0, 0)
    assert len(shown) == 1 + topics.FEEDBACK.partitions


def test_positions_come_by_themselves_and_what_kafka_has_is_never_read_back(fresh: kafka.Cluster) -> None:
    kafka.create_topics(fresh)
    shown = advice.Advice(fresh, every_s=0.2)
    with contextlib.closing(kafka.KafkaLog(fresh)) as log:
        log.append([port.NewRecord("audit", b"tenant", b"v")]).result()
        shown.show("joins", {AUDIT: 1})
        give_up_at = time.monotonic() + timing.PATIENCE_S
        while lag(fresh) != {AUDIT: (1, 1, 0)}:
            assert time.monotonic() < give_up_at
        consume(log, [topics.AUDIT], enough=1, batch=1)  # another store, which has seen nothing, begins at 0
    shown.close()


def test_a_cluster_that_is_away_holds_no_consumer_up(opened: Opened) -> None:
    number = ports.free_port()
    log = opened(kafka.Cluster((f"127.0.0.1:{number}",), deadline_s=1.0))
    begun = time.monotonic()
    for offset in range(1000):
        log.show_positions("joins", {AUDIT: offset})
    assert time.monotonic() - begun < timing.SLACK_S
    with pytest.raises(errors.LogUnavailable):
        log.append([port.NewRecord("audit", b"k", b"v")]).result()


def test_kafkas_console_consumer_reads_our_records(fresh: kafka.Cluster, opened: Opened) -> None:
    kafka.create_topics(fresh)
    log = opened(fresh)
    for number in range(3):
        record = port.NewRecord("audit", b"tenant", f"value {number}".encode(), {"schema": b"audit"})
        log.append([record]).result()
    said = cluster.run_java(
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        *("--bootstrap-server", fresh.servers[0], "--topic", f"{fresh.prefix}audit", "--from-beginning"),
        *("--group", f"{fresh.prefix}console"),
        *("--max-messages", "3", "--timeout-ms", "20000"),
        *("--formatter-property", "print.key=true", "--formatter-property", "print.headers=true"),
    )
    assert said.splitlines()[:3] == [f"schema:audit\ttenant\tvalue {number}" for number in range(3)]
