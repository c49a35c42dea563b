"""From the log's URL to its adapter. `open_log` is called once per process, in its `app.py`.

On Kafka the topics are made by `trimtab up` and by `trimtab topics apply`; the embedded log makes its own.
"""

import pathlib
import re
import urllib.parse
from typing import TYPE_CHECKING

from trimtab.bus import port, sqlite, topics
from trimtab.bus import security as securities
from trimtab.core import errors

if TYPE_CHECKING:
    from trimtab.bus import kafka

_SERVER = re.compile(r"(\[[0-9A-Fa-f:]+\]|[^\s:@\[\]]+)(:\d{1,5})?")
_PREFIX = re.compile(r"[A-Za-z0-9._-]{0,200}")


def open_log(url: str, security: securities.Security = securities.OPEN) -> port.EventLog:
    """The log at `sqlite:///absolute/path` or `kafka://host:port,host:port/prefix`; InvalidField for any other URL.

    security: how a cluster is shown who we are; of no use to the embedded log. Waits for nobody.
    """
    if (cluster := _cluster(url, security)) is not None:
        from trimtab.bus import kafka  # only where it is used

        return kafka.KafkaLog(cluster)
    return sqlite.SqliteLog(pathlib.Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)))


def create_topics(url: str, security: securities.Security = securities.OPEN) -> list[str]:
    """Creates the topics that a cluster lacks, and returns their names; an embedded log needs none.

    InvalidField as above; LogUnavailable when the cluster is away; WrongState when a topic there cannot be used.
    """
    if (cluster := _cluster(url, security)) is None:
        return []
    from trimtab.bus import kafka

    return kafka.create_topics(cluster)


def topic_differences(
    url: str, security: securities.Security, *, replicas: int = 0, apply: bool = False
) -> list[topics.Difference]:
    """How the topics of a cluster differ from what they have to be; with `apply` from what they had to be before.

    replicas: of each partition; 0: whatever the cluster gave them. InvalidField for an embedded log; else as above.
    """
    if (cluster := _cluster(url, security)) is None:
        raise errors.InvalidField("--log", f"is {url!r}, which makes its topics itself", "name a kafka:// URL")
    from trimtab.bus import kafka

    return (kafka.apply if apply else kafka.differences)(cluster, replicas)


def _cluster(url: str, security: securities.Security) -> "kafka.Cluster | None":
    """The Kafka cluster that a URL names; None for an embedded log."""
    parts = urllib.parse.urlsplit(url)
    servers, prefix = parts.netloc.split(","), parts.path.removeprefix("/")
    if parts.scheme == "kafka" and all(map(_SERVER.fullmatch, servers)) and _PREFIX.fullmatch(prefix):
        from trimtab.bus import kafka

        return kafka.Cluster(tuple(servers), prefix, security)
    if parts.scheme != "sqlite" or parts.netloc or not parts.path.startswith("/"):
        raise errors.InvalidField(
            "log_url",
            f"{url!r} names no event log",
            "use sqlite:///absolute/path/of/the/file or kafka://host:port,host:port/prefix",
        )
    return None
