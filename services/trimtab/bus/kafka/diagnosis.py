"""Why a Kafka cluster does not answer, as a clause that names what and where.

Kafka's clients try again until they give up and then say that time has passed. So what is wrong is looked for: can each
server be reached, is its certificate good, does it let us in, and are the topics there with enough replicas. Called
when something has failed or is late; takes `_PATIENCE` of the cluster's deadline.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any

import kafka.errors
from kafka.admin import ConfigResource

from trimtab.bus import topics
from trimtab.bus.kafka import clients, signing_in
from trimtab.core import errors

# Of the deadline: what is left of it to who has waited for half, or has looked after a third of it.
_PATIENCE = 0.4
# TLS 1.3 lets a client in before the server has judged its certificate; so long we wait to hear.
_VERDICT_S = 0.3
_APPLY = "`trimtab topics apply`"
_NO_ANSWER = (
    "{server} takes the connection and does not answer; unless it is paused or overloaded, it wants another "
    "TRIMTAB_KAFKA_SECURITY_PROTOCOL than {protocol}, or another TRIMTAB_KAFKA_SASL_MECHANISM"
)


@contextlib.contextmanager
def unavailable(cluster: clients.Cluster, names: Iterable[str] = ()) -> Iterator[None]:
    """Turns what Kafka's clients raise into a LogUnavailable that says why. names: as below."""
    try:
        yield
    except (kafka.errors.KafkaError, OSError) as problem:
        raise errors.LogUnavailable(f"The event log does not answer: {of(cluster, names, problem)}.") from problem


def of(cluster: clients.Cluster, names: Iterable[str], problem: Exception | None = None) -> str:
    """names: of the topics asked for, without prefix. problem: what Kafka's client said, if anything.

    Ends without a full stop.
    """
    if isinstance(problem, kafka.errors.KafkaConfigurationError):  # a file that could be read at the start
        return str(problem.args[0]).removesuffix(".")
    begun = time.monotonic()
    patience = _PATIENCE * cluster.deadline_s
    silent = False
    try:
        with contextlib.closing(cluster.admin(0.6 * patience)) as admin:
            found = _wrong_topics(cluster, admin, sorted(set(names)))
    except (kafka.errors.KafkaError, OSError):
        found, silent = [], True
    if not found:
        each_s = max(0.2, begun + patience - time.monotonic()) / len(cluster.servers)
        found = [said for server in cluster.servers if (said := _wrong_server(cluster, server, each_s, silent))]
    return "; ".join(found) or f"{cluster}: {problem or 'no answer within the deadline'}"


def user(cluster: clients.Cluster) -> str:
    """Who we are to the cluster."""
    return f"user {cluster.security.username!r}" if cluster.security.sasl else "us"


def _refused(cluster: clients.Cluster, where: object, said: str) -> str:
    return (
        f"{where} does not let user {cluster.security.username!r} in by {cluster.security.mechanism} ({said}); check "
        "TRIMTAB_KAFKA_USERNAME, the password and TRIMTAB_KAFKA_SASL_MECHANISM"
    )


def _wrong_server(cluster: clients.Cluster, server: str, patience_s: float, silent: bool) -> str:
    """What keeps us from one server. silent: no client could be built, so there must be something."""
    host, _, number = server.rpartition(":") if ":" in server else (server, "", "9092")
    address = (host.strip("[]"), int(number))
    try:
        with socket.create_connection(address, timeout=patience_s) as plain:
            if said := _refusal(cluster, plain, address[0]):
                return _refused(cluster, server, said)
    except ssl.SSLCertVerificationError as problem:
        trusted = cluster.security.ca_file or "whom this machine trusts"
        return f"the certificate of {server} is not accepted ({problem.verify_message}; trusted: {trusted})"
    except ssl.SSLError as problem:
        if "alert" in str(problem).lower():
            own = cluster.security.cert_file or "none, see TRIMTAB_KAFKA_CERT_FILE"
            return f"{server} does not accept our certificate ({problem.reason}; ours: {own})"
        return f"{server} speaks no TLS ({problem.reason}); see TRIMTAB_KAFKA_SECURITY_PROTOCOL"
    except TimeoutError:
        return f"{server} does not answer"
    except OSError as problem:
        return f"{server} cannot be reached ({problem.strerror or problem})"
    return _NO_ANSWER.format(server=server, protocol=cluster.security.protocol) if silent else ""


def _refusal(cluster: clients.Cluster, plain: socket.socket, host: str) -> str:
    """What the server says to our user, if anything. OSError, or one of TLS, when we do not get that far."""
    if not cluster.security.tls:
        return signing_in.refusal(cluster.security, plain) if cluster.security.sasl else ""
    with cluster.security.context().wrap_socket(plain, server_hostname=host) as wrapped:
        if cluster.security.sasl:
            return signing_in.refusal(cluster.security, wrapped)
        wrapped.settimeout(_VERDICT_S)
        with contextlib.suppress(TimeoutError):
            wrapped.recv(1)
    return ""


def _wrong_topics(cluster: clients.Cluster, admin: Any, names: list[str]) -> list[str]:
    """Of topics that are asked for: what is missing, without a leader, or short of replicas."""
    if not names:
        return []
    asked = [cluster.prefix + name for name in names]
    found = []
    for name, topic in zip(names, _described(admin, asked), strict=True):
        wanted = topics.ALL[name].partitions
        if topic["error_code"] == kafka.errors.TopicAuthorizationFailedError.errno:
            found.append(
                f"{topic['name']} on {cluster} is not for {user(cluster)}: it has to describe, read and write it"
            )
        elif not topic["partitions"]:
            found.append(f"topic {topic['name']} is missing on {cluster}; make it with {_APPLY}")
        elif len(topic["partitions"]) != wanted:
            count = len(topic["partitions"])
            found.append(f"topic {topic['name']} has {count} partitions on {cluster}, and {wanted} are needed")
        else:
            found += _few_replicas(admin, topic)
    return found


def _described(admin: Any, asked: list[str]) -> list[dict[str, Any]]:
    by_name = {topic["name"]: topic for topic in admin.describe_topics(asked)}
    return [by_name[name] for name in asked]


def _few_replicas(admin: Any, topic: dict[str, Any]) -> list[str]:
    [needed] = admin.describe_configs(
        [ConfigResource("topic", topic["name"], ["min.insync.replicas"])], config_filter="all"
    )["topic"].values()
    least = int(needed["min.insync.replicas"]["value"])
    leaderless = [part["partition_index"] for part in topic["partitions"] if part["leader_id"] < 0]
    if leaderless:
        return [f"{topic['name']} has no leader for partition {', '.join(map(str, leaderless))}: brokers are down"]
    fewest = min(len(part["isr_nodes"]) for part in topic["partitions"])
    if fewest < least:
        return [f"{topic['name']} has {fewest} in-sync replicas of the {least} it needs: brokers are down or behind"]
    return []
