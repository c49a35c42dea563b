"""A Kafka cluster, and clients of it that are built whole or not at all. Used by the other modules of this package."""

import contextlib
import dataclasses
from typing import Any

import kafka
import kafka.errors
from kafka.net.compat import KafkaNetClient

from trimtab.bus import limits, port, topics
from trimtab.bus import security as securities
from trimtab.core import errors

# A batch and its records take a little more room than the record they hold.
_LARGEST_REQUEST_BYTES = 9 * topics.MIB + topics.MIB // 2
# How long the producer's caller waits to hear of a topic for the first time.
METADATA_S = 0.5
# The producer does not give up: what it gave up on once it has tried would leave it without an id, for ever (in 3.0.12;
# `TransactionManager.reset_producer_id` does not ask for another). `sender` keeps the deadlines.
_NEVER_MS = 365 * 86_400_000
_SHORTEST_POLL_MS = 1.0


class _Client(KafkaNetClient):  # type: ignore[misc]
    """The producer asks for no pause at all while a broker takes its time to let it in, and would keep a core busy."""

    def poll(self, timeout_ms: float | None = None, future: Any = None) -> None:
        super().poll(None if timeout_ms is None else max(timeout_ms, _SHORTEST_POLL_MS), future)


@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """servers: host:port of some brokers. prefix: of our topics' names, where a cluster is shared.

    deadline_s: an append resolves, one way or another, within it; other calls take that long at most, too.
    """

    servers: tuple[str, ...]
    prefix: str = ""
    security: securities.Security = securities.OPEN
    deadline_s: float = 10.0

    def __str__(self) -> str:
        return ", ".join(self.servers)

    def named(self, source: port.TopicPartition) -> Any:
        """As Kafka's clients want it."""
        return kafka.TopicPartition(self.prefix + source.topic, source.partition)

    def ours(self, named: Any) -> port.TopicPartition:
        return port.TopicPartition(named.topic[len(self.prefix) :], named.partition)

    def producer(self) -> Any:
        """KafkaError or OSError when the cluster cannot be reached, like the others below."""
        return self._built(
            kafka.KafkaProducer,
            acks="all",
            enable_idempotence=True,
            compression_type="zstd",
            linger_ms=2,
            batch_size=256 * topics.KIB,
            max_request_size=_LARGEST_REQUEST_BYTES,
            delivery_timeout_ms=_NEVER_MS,
            request_timeout_ms=int(400 * self.deadline_s),
            max_block_ms=int(1000 * METADATA_S),
            reconnect_backoff_max_ms=1000,
            bootstrap_timeout_ms=int(250 * self.deadline_s),
            allow_auto_create_topics=False,
        )

    def consumer(self) -> Any:
        patience_ms = int(500 * self.deadline_s)
        return self._built(
            kafka.KafkaConsumer,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_bytes=limits.MAX_POLL_BYTES,
            max_partition_fetch_bytes=4 * topics.MIB,
            reconnect_backoff_max_ms=1000,
            bootstrap_timeout_ms=patience_ms,
            request_timeout_ms=patience_ms,
            allow_auto_create_topics=False,
        )

    def admin(self, patience_s: float | None = None) -> Any:
        """patience_s: for finding the cluster, and for the answer to each request; default: half the deadline."""
        patience_ms = int(1000 * (self.deadline_s / 2 if patience_s is None else patience_s))
        return self._built(kafka.KafkaAdminClient, bootstrap_timeout_ms=patience_ms, request_timeout_ms=patience_ms)

    def _built(self, kind: Any, **settings: Any) -> Any:
        """A client that cannot bootstrap leaves its thread and sockets behind unless somebody closes them."""
        with contextlib.ExitStack() as begun:

            def connected(**configs: Any) -> Any:
                return begun.enter_context(contextlib.closing(_Client(**configs)))

            built = kind(bootstrap_servers=list(self.servers), kafka_client=connected, **self._shown(), **settings)
            begun.pop_all()
        return built

    def _shown(self) -> dict[str, Any]:
        """kafka-python's words for who we are. Files are read for each client, so that renewed ones are found."""
        shown: dict[str, Any] = {"security_protocol": self.security.protocol}
        if self.security.tls:
            try:
                shown["ssl_context"] = self.security.context()
            except errors.InvalidField as problem:
                raise kafka.errors.KafkaConfigurationError(str(problem)) from problem
        if self.security.sasl:
            shown["sasl_mechanism"] = self.security.mechanism
            shown["sasl_plain_username"] = self.security.username
            shown["sasl_plain_password"] = self.security.password
        return shown
