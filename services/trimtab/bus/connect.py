"""From the log's URL to its adapter. Called once per process, in its `app.py`."""

import pathlib
import urllib.parse

from trimtab.bus import port, sqlite
from trimtab.core import errors


def open_log(url: str) -> port.EventLog:
    """The log at `sqlite:///absolute/path` or `kafka://host:port,host:port/prefix`; InvalidField for any other URL."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "kafka" and parts.netloc:
        from trimtab.bus import kafka  # only where it is used

        return kafka.KafkaLog(parts.netloc.split(","), prefix=parts.path.removeprefix("/"))
    if parts.scheme != "sqlite" or parts.netloc or not parts.path.startswith("/"):
        raise errors.InvalidField(
            "log_url", f"{url!r} names no event log", "use sqlite:///absolute/path/of/the/file or kafka://host:port"
        )
    return sqlite.SqliteLog(pathlib.Path(urllib.parse.unquote(parts.path)))
