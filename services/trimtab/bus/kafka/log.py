"""KafkaLog: the EventLog port over a Kafka cluster. Built by `bus.connect`; the parts are in this package."""

import concurrent.futures
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trimtab.bus import limits, port
from trimtab.bus.kafka import advice, clients, diagnosis, reader, sender


class KafkaLog:
    """Implements `port.EventLog` and `port.ShowsPositions`. Thread-safe.

    A record is acknowledged when all in-sync replicas have it (`acks=all`) and is written once however often the
    producer tries (`enable_idempotence`). Opening it waits for nobody: a cluster that is away is looked for again until
    the deadline of what waits.
    """

    def __init__(self, cluster: clients.Cluster) -> None:
        self._cluster = cluster
        self._sender = sender.Sender(cluster)
        self._advice = advice.Advice(cluster)
        self._asking: Any = None
        self._asking_lock = threading.Lock()

    def append(self, records: Sequence[port.NewRecord]) -> concurrent.futures.Future[list[port.Position]]:
        """See the port."""
        return self._sender.submit([(record, limits.placed(record)) for record in records])

    def reader(self, start: Mapping[port.TopicPartition, int]) -> port.Reader:
        for source in start:
            limits.require_partition(source.topic, source.partition)
        return reader.KafkaReader(self._cluster, start, self._sender.closed)

    def partitions(self, topic: str) -> int:
        return limits.topic(topic).partitions

    def end_offsets(self, topic: str) -> dict[port.TopicPartition, int]:
        count = limits.topic(topic).partitions
        sources = [port.TopicPartition(topic, partition) for partition in range(count)]
        with self._asking_lock, diagnosis.unavailable(self._cluster, [topic]):
            if self._asking is None:
                self._asking = self._cluster.consumer()
            return reader.ends(self._cluster, self._asking, sources)

    def show_positions(self, consumer: str, positions: Mapping[port.TopicPartition, int]) -> None:
        """See the port."""
        self._advice.show(consumer, positions)

    def on_fault(self, tell: Callable[[BaseException], None]) -> None:
        """See the port."""
        self._sender.threads.on_fault(tell)

    def close(self) -> None:
        """Sends what waits, within the deadline, then lets go. A second call does nothing."""
        self._sender.close()
        self._advice.close()
        with self._asking_lock:
            if self._asking is not None:
                self._asking.close()
                self._asking = None
