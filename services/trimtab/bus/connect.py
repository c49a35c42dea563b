"""From the log's URL to its adapter. Called once per process, in its `app.py`; topics are made by `trimtab up`."""

import pathlib
import urllib.parse
from collections.abc import Sequence

from trimtab.bus import port, sqlite
from trimtab.core import errors


def open_log(url: str) -> port.EventLog:
    """The log at `sqlite:///absolute/path` or `kafka://host:port,host:port/prefix`; InvalidField for any other URL."""
    if (cluster := _cluster(url)) is not None:
        from trimtab.bus import kafka  # only where it is used

        servers, prefix = cluster
        return kafka.KafkaLog(servers, prefix=prefix)
    return sqlite.SqliteLog(pathlib.Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)))


def create_topics(url: str) -> list[str]:
    """Creates the topics that a cluster lacks, and returns their names; an embedded log needs none.

    InvalidField as above; LogUnavailable when the cluster is away.
    """
    if (cluster := _cluster(url)) is None:
        return []
    from trimtab.bus import kafka

    servers, prefix = cluster
    return kafka.create_topics(servers, prefix=prefix)


def _cluster(url: str) -> tuple[Sequence[str], str] | None:
    """Servers and the prefix of topics of a Kafka cluster; None for an embedded log."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "kafka" and parts.netloc:
        return parts.netloc.split(","), parts.path.removeprefix("/")
    if parts.scheme != "sqlite" or parts.netloc or not parts.path.startswith("/"):
        raise errors.InvalidField(
            "log_url",
            f"{url!r} names no event log",
            "use sqlite:///absolute/path/of/the/file or kafka://host:port,host:port/prefix",
        )
    return None
