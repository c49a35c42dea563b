"""Three brokers: an acknowledged record is on at least two, and a cluster that cannot promise that takes none."""

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest
from kafka import KafkaAdminClient
from tests import timing
from tests.broker import cluster, shared

from trimtab.bus import kafka, port, topics
from trimtab.core import errors

Opened = Callable[..., kafka.KafkaLog]
MODELS = port.TopicPartition("models", 0)


@pytest.fixture(scope="module")
def brokers() -> Iterator[cluster.Cluster]:
    with cluster.running(nodes=3) as started:
        yield started


@pytest.fixture
def reached(brokers: cluster.Cluster) -> Iterator[kafka.Cluster]:
    """Without topics."""
    with shared.own(brokers.address) as made:
        yield made


def replicas(brokers: cluster.Cluster, reached: kafka.Cluster) -> set[int]:
    """How many replicas the partitions of our topics have."""
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=brokers.address.split(","))) as admin:
        found = admin.describe_topics([reached.prefix + name for name in topics.ALL])
    return {len(part["replica_nodes"]) for topic in found for part in topic["partitions"]}


def test_topics_get_more_and_fewer_replicas_and_keep_what_they_hold(
    brokers: cluster.Cluster, reached: kafka.Cluster, opened: Opened
) -> None:
    kafka.apply(reached, 1)
    assert replicas(brokers, reached) == {1}
    log = opened(reached)
    for number in range(20):
        log.append([port.NewRecord("examples", str(number).encode(), b"v")]).result()
    more = kafka.differences(reached, 3)
    assert {(one.what, one.found, one.wanted) for one in more} == {
        ("replicas", "1", "3"),
        ("min.insync.replicas", "1", "2"),
    }
    assert kafka.apply(reached, 3) == more
    assert replicas(brokers, reached) == {3}
    assert kafka.differences(reached, 3) == []
    assert kafka.differences(reached, 0) == []
    assert sum(log.end_offsets("examples").values()) == 20
    kafka.apply(reached, 1)
    assert replicas(brokers, reached) == {1}
    assert sum(log.end_offsets("examples").values()) == 20


def test_more_replicas_than_brokers_are_refused_in_words(brokers: cluster.Cluster, reached: kafka.Cluster) -> None:
    with pytest.raises(errors.WrongState, match=r"with 4 replicas .*start more brokers"):
        kafka.apply(reached, 4)
    kafka.apply(reached, 3)
    with pytest.raises(errors.WrongState, match="has 3 brokers and 4 replicas need as many; start more"):
        kafka.apply(reached, 4)


def test_with_too_few_replicas_in_sync_nothing_is_acknowledged_until_they_are_back(
    brokers: cluster.Cluster, reached: kafka.Cluster, opened: Opened
) -> None:
    kafka.apply(reached, 3)
    log = opened(reached, deadline_s=6.0)
    assert log.append([port.NewRecord("models", b"k", b"before")]).result()[0].offset == 0
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=brokers.address.split(","))) as admin:
        [topic] = admin.describe_topics([reached.prefix + "models"])
    [part] = topic["partitions"]
    down = [number for number in part["replica_nodes"] if number != part["leader_id"]]
    for number in down:
        brokers.nodes[number - 1].kill()
    begun = time.monotonic()
    waiting = log.append([port.NewRecord("models", b"k", b"lost or stored")])
    with pytest.raises(errors.LogUnavailable) as problem:
        waiting.result()
    assert time.monotonic() - begun < 6.0 + timing.SLACK_S
    said = str(problem.value)
    for number in down:
        brokers.nodes[number - 1].start()
    for number in down:
        brokers.nodes[number - 1].await_ready()
    give_up_at = time.monotonic() + timing.PATIENCE_S
    while True:
        with contextlib.suppress(errors.LogUnavailable):
            log.append([port.NewRecord("models", b"k", b"after")]).result()
            break
        assert time.monotonic() < give_up_at
    with contextlib.closing(log.reader({MODELS: 0})) as reader:
        kept = [record.value for record in reader.poll(500, 5.0)]
    assert (kept[0], kept[-1]) == (b"before", b"after")
    for number in down:
        assert f"127.0.0.1:{brokers.nodes[number - 1].port} cannot be reached (Connection refused)" in said
