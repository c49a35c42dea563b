"""Positions of our consumers as committed offsets of Kafka groups: Kafka's own tools show how far behind they are.

Advice, and never relied upon: a consumer goes on from its own store. The group is the prefix and the consumer's name;
it has no members. Given by `bus.runner` through `KafkaLog.show_positions`, published by a thread of its own.
"""

import contextlib
import threading
import time
from collections.abc import Mapping
from typing import Any

import kafka.errors
from kafka.structs import OffsetAndMetadata

from trimtab.bus import port
from trimtab.bus.kafka import clients
from trimtab.obs import logging

_log = logging.get(__name__)

EVERY_S = 5.0
# Kafka forgets what nobody commits for a week, also of partitions that nothing comes into.
_AGAIN_S = 3600.0
_LAST_LOOKS_S = 0.2


class Advice:
    """The positions of all consumers of one process. Its thread starts with the first."""

    def __init__(self, cluster: clients.Cluster, every_s: float = EVERY_S) -> None:
        self._cluster = cluster
        self._every_s = every_s
        self._lock = threading.Lock()
        self._positions: dict[str, dict[port.TopicPartition, int]] = {}
        self._changed: set[str] = set()
        self._published_at = time.monotonic()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._admin: Any = None

    def show(self, consumer: str, positions: Mapping[port.TopicPartition, int]) -> None:
        """Returns at once."""
        with self._lock:
            if self._closing.is_set():
                return
            self._positions.setdefault(consumer, {}).update(positions)
            self._changed.add(consumer)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log-positions", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Publishes what is new, within the deadline."""
        with self._lock:
            self._closing.set()
        if self._thread is not None:
            self._thread.join(self._cluster.deadline_s)

    def _run(self) -> None:
        while not self._closing.wait(self._every_s):
            self._publish_news()
        # more than once: a cluster that has never had a group makes what it needs for them first
        give_up_at = time.monotonic() + self._cluster.deadline_s / 2
        while not self._publish_news() and time.monotonic() < give_up_at:
            time.sleep(_LAST_LOOKS_S)
        self._let_go()

    def _publish_news(self) -> bool:
        """Whether the cluster has everything now."""
        with self._lock:
            if time.monotonic() - self._published_at > _AGAIN_S:
                self._changed.update(self._positions)
            news = {consumer: dict(self._positions[consumer]) for consumer in self._changed}
            self._changed.clear()
        try:
            for consumer, positions in news.items():
                self._publish(consumer, positions)
            if news:
                self._published_at = time.monotonic()
        except (kafka.errors.KafkaError, OSError) as problem:
            _log.warning("positions were not shown to Kafka", consumers=sorted(news), reason=str(problem))
            self._let_go()
            with self._lock:
                self._changed.update(news)
            return False
        return True

    def _publish(self, consumer: str, positions: Mapping[port.TopicPartition, int]) -> None:
        if self._admin is None:
            self._admin = self._cluster.admin()
        offsets = {
            self._cluster.named(source): OffsetAndMetadata(offset, "", None) for source, offset in positions.items()
        }
        answers = self._admin.alter_group_offsets(self._cluster.prefix + consumer, offsets)
        for problem in answers.values():
            if problem is not kafka.errors.NoError:
                raise problem()

    def _let_go(self) -> None:
        """A coordinator that moved is looked for by a new client."""
        if self._admin is not None:
            with contextlib.suppress(kafka.errors.KafkaError):
                self._admin.close()
            self._admin = None
