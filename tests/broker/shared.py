"""Topics of a test's own on a Kafka that several tests share."""

import contextlib
import os
import secrets
from collections.abc import Iterator

from kafka import KafkaAdminClient

from trimtab.bus import kafka

# Names host:port of a Kafka that runs already; nothing is left on it.
EXTERNAL = "TRIMTAB_TEST_KAFKA"


@contextlib.contextmanager
def own(address: str, deadline_s: float = 10.0) -> Iterator[kafka.Cluster]:
    """The cluster under a prefix that nobody has. The topics are made by who wants them."""
    made = kafka.Cluster(tuple(address.split(",")), f"{secrets.token_hex(4)}.", deadline_s=deadline_s)
    try:
        yield made
    finally:
        if os.environ.get(EXTERNAL):
            _forget(made)


def _forget(made: kafka.Cluster) -> None:
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=list(made.servers))) as admin:
        if names := [name for name in admin.list_topics() if name.startswith(made.prefix)]:
            admin.delete_topics(names)
        groups = [group["group_id"] for group in admin.list_groups()]
        if ours := [group for group in groups if group.startswith(made.prefix)]:
            admin.delete_groups(ours)
