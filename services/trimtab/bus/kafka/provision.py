"""The topics of a cluster as they have to be: created, compared and altered. Used by `trimtab up` and `trimtab topics`.

Altered are settings and the number of replicas. The number of partitions never is: a record's key picks its partition,
so another number would tear apart what belongs together.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import kafka
import kafka.errors
from kafka.admin import ConfigResource

from trimtab.bus import topics
from trimtab.bus.kafka import clients, diagnosis
from trimtab.core import errors

# Replicas are copied whole; who asks for more of them waits so long at most.
_COPY_S = 600.0
_LOOK_S = 0.2
_Described = Mapping[str, Any]


def create_topics(cluster: clients.Cluster) -> list[str]:
    """Creates the topics that are missing, with as many replicas as the cluster gives by itself; returns their names.

    LogUnavailable when the cluster is away, WrongState when a topic has another number of partitions.
    """
    with _admin(cluster) as admin:
        found = _compared(cluster, admin, 0)
        for difference in found:
            if difference.refused:
                raise errors.WrongState(str(difference))
        missing = [difference.topic for difference in found if difference.what == topics.TOPIC]
        _create(cluster, admin, missing, 0)
    return missing


def differences(cluster: clients.Cluster, replicas: int) -> list[topics.Difference]:
    """What the cluster has otherwise than it has to be. replicas: 0 compares neither their number nor what follows.

    LogUnavailable when the cluster is away.
    """
    with _admin(cluster) as admin:
        return _compared(cluster, admin, replicas)


def apply(cluster: clients.Cluster, replicas: int) -> list[topics.Difference]:
    """Makes what is different as it has to be, and returns what was; what is `refused` stays.

    LogUnavailable when the cluster is away; WrongState when it refuses, e.g. more replicas than it has brokers.
    """
    with _admin(cluster) as admin:
        found = _compared(cluster, admin, replicas)
        _create(cluster, admin, [one.topic for one in found if one.what == topics.TOPIC], replicas)
        # before min.insync.replicas: a topic with fewer replicas than that takes no record
        _copy(cluster, admin, [one.topic for one in found if one.what == topics.REPLICAS], replicas)
        altered: dict[str, dict[str, str]] = {}
        for one in found:
            if one.what not in (topics.TOPIC, topics.REPLICAS, topics.PARTITIONS):
                altered.setdefault(one.topic, {})[one.what] = one.wanted
        _alter(admin, altered)
        if found:
            _await(cluster, admin, replicas)
    return found


@contextlib.contextmanager
def _admin(cluster: clients.Cluster) -> Iterator[Any]:
    with diagnosis.unavailable(cluster), contextlib.closing(cluster.admin()) as admin:
        yield admin


def _compared(cluster: clients.Cluster, admin: Any, replicas: int) -> list[topics.Difference]:
    names = {cluster.prefix + topic.name: topic for topic in topics.ALL.values()}
    answers = admin.describe_topics(list(names))
    if any(topic["error_code"] == kafka.errors.TopicAuthorizationFailedError.errno for topic in answers):
        raise _not_allowed(cluster, "describe and describe-configs")
    described = {topic["name"]: topic for topic in answers if topic["partitions"]}
    settings = _settings(cluster, admin, list(described))
    found: list[topics.Difference] = []
    for name, topic in names.items():
        if name not in described:
            found.append(topics.Difference(name, topics.TOPIC, "there", "missing"))
            continue
        found += _other_shape(name, topic, described[name], replicas)
        for key, wanted in topics.kafka_settings(topic, replicas).items():
            if settings[name][key] != wanted:
                found.append(topics.Difference(name, key, wanted, settings[name][key]))
    return found


def _other_shape(name: str, topic: topics.Topic, described: _Described, replicas: int) -> Iterator[topics.Difference]:
    count = len(described["partitions"])
    if count != topic.partitions:
        why = (
            "their number never changes, since keys pick them; start with another prefix, or move the records yourself"
        )
        yield topics.Difference(name, topics.PARTITIONS, str(topic.partitions), str(count), why)
    copies = sorted({len(part["replica_nodes"]) for part in described["partitions"]})
    if replicas and copies != [replicas]:
        yield topics.Difference(name, topics.REPLICAS, str(replicas), " to ".join(map(str, copies)))


def _settings(cluster: clients.Cluster, admin: Any, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """What holds for each topic, whether it was set for it or is the cluster's default."""
    if not names:
        return {}
    resources = [ConfigResource("topic", name) for name in names]
    give_up_at = time.monotonic() + cluster.deadline_s / 2
    while True:
        found = admin.describe_configs(resources, config_filter="all")["topic"]
        if all(found[name] for name in names):
            return {name: {key: one["value"] for key, one in found[name].items()} for name in names}
        if time.monotonic() > give_up_at:
            raise _not_allowed(cluster, "describe-configs")
        time.sleep(_LOOK_S)  # another broker than the one that knew the topic, and it has not heard of it yet


def _create(cluster: clients.Cluster, admin: Any, names: Sequence[str], replicas: int) -> None:
    if not names:
        return
    wanted = {}
    for name in names:
        topic = topics.ALL[name[len(cluster.prefix) :]]
        wanted[name] = {
            "num_partitions": topic.partitions,
            "replication_factor": replicas or -1,
            "configs": topics.kafka_settings(topic, replicas),
        }
    try:
        admin.create_topics(wanted)
    except kafka.errors.TopicAlreadyExistsError:
        pass  # somebody else makes them at this moment
    except kafka.errors.TopicAuthorizationFailedError as problem:
        raise _not_allowed(cluster, "create") from problem
    except (kafka.errors.InvalidReplicationFactorError, kafka.errors.PolicyViolationError) as problem:
        raise errors.WrongState(
            f"{cluster} does not create topics with {replicas or 'its own number of'} replicas ({problem}); start more "
            "brokers, or ask for another number with `--replicas`."
        ) from problem
    admin.wait_for_topics(list(names))


def _not_allowed(cluster: clients.Cluster, act: str) -> errors.WrongState:
    topic = f"topics whose names begin with {cluster.prefix!r}" if cluster.prefix else "our topics"
    return errors.WrongState(f"{cluster} does not let {diagnosis.user(cluster)} {act} {topic}; allow it there.")


def _copy(cluster: clients.Cluster, admin: Any, names: Sequence[str], replicas: int) -> None:
    """More or fewer replicas: those that are there stay where they are, and others are spread over the brokers."""
    if not names:
        return
    brokers = sorted(broker["broker_id"] for broker in admin.describe_cluster()["brokers"] if not broker["is_fenced"])
    if len(brokers) < replicas:
        raise errors.WrongState(
            f"{cluster} has {len(brokers)} brokers and {replicas} replicas need as many; start more, or ask for "
            "another number with `--replicas`."
        )
    moves = {}
    for topic in admin.describe_topics(list(names)):
        for part in topic["partitions"]:
            here, turn = list(part["replica_nodes"]), part["partition_index"] % len(brokers)
            others = [broker for broker in brokers[turn:] + brokers[:turn] if broker not in here]
            moves[kafka.TopicPartition(topic["name"], part["partition_index"])] = (here + others)[:replicas]
    for source, problem in admin.alter_partition_reassignments(moves).items():
        if problem is not None:
            raise errors.WrongState(f"{cluster} does not copy {source.topic}/{source.partition} ({problem.__name__}).")
    give_up_at = time.monotonic() + _COPY_S
    while left := admin.list_partition_reassignments(list(moves)):
        if time.monotonic() > give_up_at:
            raise errors.WrongState(f"{cluster} still copies {len(left)} partitions; run this command again later.")
        time.sleep(_LOOK_S)


def _await(cluster: clients.Cluster, admin: Any, replicas: int) -> None:
    """Brokers hear of what their controller has taken a moment later."""
    give_up_at = time.monotonic() + cluster.deadline_s
    while left := [one for one in _compared(cluster, admin, replicas) if not one.refused]:
        if time.monotonic() > give_up_at:
            raise errors.WrongState(f"{cluster} took the change, and does not show it. {left[0]}")
        time.sleep(_LOOK_S)


def _alter(admin: Any, altered: Mapping[str, dict[str, str]]) -> None:
    if not altered:
        return
    answers = admin.alter_configs([ConfigResource("topic", name, dict(one)) for name, one in altered.items()])
    for name, said in answers["topic"].items():
        if said != "OK":
            raise errors.WrongState(f"The settings of topic {name} were not altered ({said}).")
