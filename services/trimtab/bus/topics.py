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


def kafka_settings(topic: Topic) -> dict[str, str]:
    """How the topic is set up on Kafka. Tombstones stand for a day; the time of a record is the broker's."""
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
    return settings
