"""From the log's URL to its adapter. Called once per process, in its `app.py`."""

import pathlib
import urllib.parse

from trimtab.bus import port, sqlite
from trimtab.core import errors


def open_log(url: str) -> port.EventLog:
    """The log at `sqlite:///absolute/path`; InvalidField for any other URL."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "sqlite" or parts.netloc or not parts.path.startswith("/"):
        raise errors.InvalidField("log_url", f"{url!r} names no event log", "use sqlite:///absolute/path/of/the/file")
    return sqlite.SqliteLog(pathlib.Path(urllib.parse.unquote(parts.path)))
