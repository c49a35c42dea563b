"""A cluster that is away, stuck, or not set up: errors in time, in words, and nothing acknowledged is lost."""

import concurrent.futures
import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource
from tests import timing
from tests.broker import cluster, shared

from trimtab.bus import kafka, limits, port, topics
from trimtab.core import errors
from trimtab.rpc import ports

MODELS = port.TopicPartition("models", 0)
EXAMPLES = [port.TopicPartition("examples", partition) for partition in range(topics.EXAMPLES.partitions)]
Opened = Callable[..., kafka.KafkaLog]
# Of logs whose cluster takes records before it is disturbed: enough for a busy machine to take them.
DEADLINE_S = 6.0


@pytest.fixture(scope="module")
def broker() -> Iterator[cluster.Cluster]:
    """Of this file's own: it is paused and killed here."""
    with cluster.running() as started:
        yield started


@pytest.fixture
def reached(broker: cluster.Cluster) -> Iterator[kafka.Cluster]:
    """With all topics."""
    with shared.own(broker.address) as made:
        kafka.create_topics(made)
        yield made


@contextlib.contextmanager
def paused(broker: cluster.Cluster) -> Iterator[None]:
    broker.nodes[0].pause()
    try:
        yield
    finally:
        broker.nodes[0].resume()


def record(value: bytes = b"v", topic: str = "models") -> port.NewRecord:
    return port.NewRecord(topic, value[:64], value)


def refused(ask: Callable[[], object], deadline_s: float) -> str:
    """The sentence of a log that is away, which comes in time."""
    begun = time.monotonic()
    with pytest.raises(errors.LogUnavailable) as problem:
        ask()
    assert time.monotonic() - begun < deadline_s + timing.SLACK_S
    return str(problem.value)


def refusals(deadline_s: float, *asks: Callable[[], object]) -> list[str]:
    """Of several at once."""
    with concurrent.futures.ThreadPoolExecutor(len(asks)) as pool:
        return list(pool.map(refused, asks, [deadline_s] * len(asks)))


def values(log: kafka.KafkaLog, sources: list[port.TopicPartition]) -> list[bytes]:
    with contextlib.closing(log.reader(dict.fromkeys(sources, 0))) as reader:
        ends = {source: log.end_offsets(source.topic)[source] for source in sources}
        found: list[bytes] = []
        while any(reader.position(source) < end for source, end in ends.items()):
            found += [one.value for one in reader.poll(500, 1.0)]
    return found


# --- not there ---


def test_an_address_where_nobody_listens_is_named_by_every_client_within_the_deadline(opened: Opened) -> None:
    number = ports.free_port()
    nobody = kafka.Cluster((f"127.0.0.1:{number}",), deadline_s=3.0)
    log = opened(nobody)
    with contextlib.closing(log.reader({MODELS: 0})) as reader:
        said = refusals(
            3.0,
            lambda: log.append([record()]).result(),
            lambda: reader.poll(1, 0.0),
            lambda: log.end_offsets("models"),
            lambda: kafka.create_topics(nobody),
        )
    for sentence in said:
        assert f"127.0.0.1:{number} cannot be reached (Connection refused)" in sentence


def test_a_name_that_nobody_has_is_told(opened: Opened) -> None:
    log = opened(kafka.Cluster(("no-such-broker.invalid:9092",), deadline_s=3.0))
    assert "no-such-broker.invalid:9092 cannot be reached (" in refused(log.append([record()]).result, 3.0)


def test_looking_for_a_cluster_that_is_away_leaves_nothing_behind(opened: Opened) -> None:
    number = ports.free_port()
    log = opened(kafka.Cluster((f"127.0.0.1:{number}",), deadline_s=0.5))
    with contextlib.closing(log.reader({MODELS: 0})) as reader:
        refused(lambda: reader.poll(1, 0.0), 0.5)
        before = threading.active_count()
        for _ in range(5):
            refused(lambda: reader.poll(1, 0.0), 0.5)
            refused(log.append([record()]).result, 0.5)
        timing.until(lambda: threading.active_count() <= before, "the end of every thread")


def test_a_topic_that_is_missing_is_named_with_its_remedy_and_holds_no_other_up(
    broker: cluster.Cluster, opened: Opened
) -> None:
    with shared.own(broker.address) as made:
        kafka.create_topics(made)
        with contextlib.closing(KafkaAdminClient(bootstrap_servers=broker.address)) as admin:
            admin.delete_topics([made.prefix + "models"])
            timing.until(lambda: made.prefix + "models" not in admin.list_topics(), "the deletion")
        log = opened(made, deadline_s=DEADLINE_S)
        waiting = log.append([record()])
        assert log.append([record(topic="audit")]).result()[0].offset == 0
        with contextlib.closing(log.reader({MODELS: 0})) as reader:
            said = refusals(DEADLINE_S, waiting.result, lambda: reader.poll(1, 0.0), lambda: log.end_offsets("models"))
        for sentence in said:
            assert f"topic {made.prefix}models is missing on {broker.address}" in sentence
            assert "`trimtab topics apply`" in sentence
        kafka.create_topics(made)
        assert log.append([record()]).result()[0].offset == 0


def test_a_topic_with_another_number_of_partitions_takes_nothing(broker: cluster.Cluster, opened: Opened) -> None:
    with shared.own(broker.address) as made:
        with contextlib.closing(KafkaAdminClient(bootstrap_servers=broker.address)) as admin:
            admin.create_topics({made.prefix + "examples": {"num_partitions": 3, "replication_factor": 1}})
        log = opened(made, deadline_s=DEADLINE_S)
        said = refused(log.append([port.NewRecord("examples", b"k", b"v", partition=0)]).result, DEADLINE_S)
        assert f"topic {made.prefix}examples has 3 partitions on {broker.address}, and 8 are needed" in said
        with pytest.raises(errors.WrongState, match="partitions is 3 and has to be 8"):
            kafka.create_topics(made)


def test_a_record_that_the_brokers_find_too_large_says_which_setting_is_wrong(
    broker: cluster.Cluster, reached: kafka.Cluster, opened: Opened
) -> None:
    log = opened(reached)
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=broker.address)) as admin:
        small = {"max.message.bytes": "100000"}
        admin.alter_configs([ConfigResource("topic", reached.prefix + "models", small)])
    heard = ["max.message.bytes"]
    timing.until(lambda: [one.what for one in kafka.differences(reached, 0)] == heard, "the other limit")
    large = random.Random(0).randbytes(topics.MIB)
    said = refused(log.append([record(large)]).result, 10.0)
    assert f"Topic {reached.prefix}models on {broker.address} takes no record of this size" in said
    assert "`trimtab topics apply`" in said
    assert "Nothing was stored" in said
    assert log.append([record()]).result()[0].offset == 0
    kafka.apply(reached, 0)
    assert log.append([record(large)]).result()[0].offset == 1


# --- stuck ---


def test_a_paused_broker_gives_errors_in_time_within_bounded_memory_and_goes_on(
    broker: cluster.Cluster, reached: kafka.Cluster, opened: Opened
) -> None:
    log = opened(reached, deadline_s=DEADLINE_S)
    log.append([record(b"before")]).result()
    for topic in ("completions", "models"):
        log.append([record(b"before", topic)]).result()
    with paused(broker):
        begun = time.monotonic()
        large = port.NewRecord("completions", b"k", bytes(8_000_000), partition=0)
        waiting = [log.append([large]) for _ in range(limits.MAX_WAITING_BYTES // 8_000_000)]
        with pytest.raises(errors.Overloaded, match="retry with back-off"):
            log.append([large])
        concurrent.futures.wait(waiting, timing.PATIENCE_S)
        assert time.monotonic() - begun < DEADLINE_S + timing.SLACK_S
        for one in waiting:
            assert f"{broker.address} takes the connection and does not answer" in str(one.exception(timeout=0))
    give_up_at = time.monotonic() + timing.PATIENCE_S
    while True:  # what the producer has not let go of yet counts
        with contextlib.suppress(errors.Overloaded, errors.LogUnavailable):
            log.append([record(b"after")]).result()
            break
        assert time.monotonic() < give_up_at
        time.sleep(0.1)
    assert values(log, [MODELS])[-1] == b"after"


def test_closing_a_log_whose_broker_is_paused_ends_within_the_deadline(
    broker: cluster.Cluster, reached: kafka.Cluster, opened: Opened
) -> None:
    log = opened(reached, deadline_s=DEADLINE_S)
    log.append([record()]).result()
    with paused(broker):
        waiting = log.append([record()])
        begun = time.monotonic()
        log.close()
        assert time.monotonic() - begun < DEADLINE_S + timing.SLACK_S
        assert isinstance(waiting.exception(timeout=0), errors.LogUnavailable)


def test_a_reader_meets_a_broker_that_comes_back_where_it_stood(
    broker: cluster.Cluster, reached: kafka.Cluster, opened: Opened
) -> None:
    log = opened(reached, deadline_s=DEADLINE_S)
    log.append([record(b"0"), record(b"1")]).result()
    with contextlib.closing(log.reader({MODELS: 0})) as reader:
        assert [one.value for one in reader.poll(1, timing.PATIENCE_S)] == [b"0"]
        assert [one.value for one in reader.poll(1, timing.PATIENCE_S)] == [b"1"]
        with paused(broker):
            assert broker.address in refused(lambda: reader.poll(1, 0.2), DEADLINE_S)
            assert reader.position(MODELS) == 2
        log.append([record(b"2")]).result()
        assert [one.value for one in reader.poll(10, timing.PATIENCE_S)] == [b"2"]


# --- killed ---


def test_nothing_acknowledged_is_lost_when_the_broker_is_killed_in_the_middle_and_started_again(
    broker: cluster.Cluster, reached: kafka.Cluster, opened: Opened
) -> None:
    # a broker that was killed is back after 13 s on a quiet machine: that it comes back late fails no append here
    log = opened(reached, deadline_s=3 * timing.PATIENCE_S)
    stop = threading.Event()
    acknowledged: list[list[bytes]] = [[], []]

    def write(number: int) -> None:
        for count in range(1_000_000):
            if stop.is_set():
                return
            value = f"{number} {count}".encode()
            log.append([port.NewRecord("examples", str(number).encode(), value)]).result()
            acknowledged[number].append(value)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        writing = [pool.submit(write, number) for number in range(2)]
        timing.until(lambda: all(len(one) > 5 for one in acknowledged), "the first records")
        node = broker.nodes[0]
        node.kill()
        before = [len(one) for one in acknowledged]
        node.start()
        node.await_ready()
        more = [(one, count + 5) for one, count in zip(acknowledged, before, strict=True)]
        timing.until(
            lambda: all(len(one) > count for one, count in more) or any(one.done() for one in writing),
            "records after the kill",
        )
        stop.set()
        for one in writing:
            one.result(timeout=timing.PATIENCE_S)
    stored = values(log, EXAMPLES)
    for number, told in enumerate(acknowledged):
        kept = [value for value in stored if value.startswith(f"{number} ".encode())]
        assert kept == told  # each once, in its order: the producer is idempotent
