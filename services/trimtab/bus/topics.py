"""The topics, once: partitions, clean-up and the largest record. Partition counts never change."""

import dataclasses
import enum

KIB, MIB = 1024, 1024 * 1024


class Cleanup(enum.StrEnum):
    TIME = "time"
    COMPACT = "compact"
    KEEP = "keep"


@dataclasses.dataclass(frozen=True, slots=True)
class Topic:
    """max_bytes: of one record's value. retention_days applies to `time` only."""

    name: str
    partitions: int
    cleanup: Cleanup
    max_bytes: int
    retention_days: int = 0


COMPLETIONS = Topic("completions", 8, Cleanup.TIME, 8 * MIB, 90)
FEEDBACK = Topic("feedback", 8, Cleanup.TIME, 256 * KIB, 365)
EXAMPLES = Topic("examples", 8, Cleanup.TIME, 8 * MIB, 365)
SCORES = Topic("scores", 8, Cleanup.TIME, 64 * KIB, 90)
MODELS = Topic("models", 1, Cleanup.COMPACT, MIB)
ROLLOUTS = Topic("rollouts", 1, Cleanup.COMPACT, MIB)
ERASURES = Topic("erasures", 1, Cleanup.COMPACT, 64 * KIB)
AUDIT = Topic("audit", 1, Cleanup.KEEP, 64 * KIB)
DEADLETTER = Topic("deadletter", 1, Cleanup.TIME, 9 * MIB, 90)

ALL = {
    topic.name: topic
    for topic in (COMPLETIONS, FEEDBACK, EXAMPLES, SCORES, MODELS, ROLLOUTS, ERASURES, AUDIT, DEADLETTER)
}


# What may be different of a topic on Kafka, beside its settings.
TOPIC, PARTITIONS, REPLICAS = "topic", "partitions", "replicas"


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """Between a topic of a cluster and what it has to be.

    topic: with its prefix. what: TOPIC, PARTITIONS, REPLICAS, or a setting's name. refused: a clause, why it cannot be
    made as it has to be; empty where it can.
    """

    topic: str
    what: str
    wanted: str
    found: str
    refused: str = ""

    def __str__(self) -> str:
        reason = f": {self.refused}" if self.refused else ""
        return f"Topic {self.topic} on the cluster: {self.what} is {self.found} and has to be {self.wanted}{reason}."


def kafka_settings(topic: Topic, replicas: int = 0) -> dict[str, str]:
    """How the topic is set up on Kafka. Tombstones stand for a day; the time of a record is the broker's.

    replicas: of each partition; one of three or more may be away. 0: as the cluster does by itself.
    """
    settings = {
        # the value, its key and headers (`port.MAX_KEY_AND_HEADERS_BYTES`) and the batch around it
        "max.message.bytes": str(topic.max_bytes + 128 * KIB),
        "message.timestamp.type": "LogAppendTime",
        "compression.type": "producer",
        "cleanup.policy": "compact" if topic.cleanup is Cleanup.COMPACT else "delete",
        "retention.ms": str(topic.retention_days * 86_400_000) if topic.cleanup is Cleanup.TIME else "-1",
    }
    if topic.cleanup is Cleanup.COMPACT:
        settings |= {"delete.retention.ms": "86400000", "min.cleanable.dirty.ratio": "0.1"}
    if replicas:
        settings["min.insync.replicas"] = str(replicas - 1 if replicas >= 3 else 1)
    return settings
