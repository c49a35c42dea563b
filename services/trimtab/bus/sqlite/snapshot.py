"""A copy of a SQLite file as it is at one moment, while other processes write to it."""

import contextlib
import pathlib

import apsw

from trimtab.bus import port
from trimtab.bus.sqlite import file
from trimtab.core import files


def copy(source: pathlib.Path, to: pathlib.Path, busy_s: float = 30.0) -> None:
    """Copies what is committed, by SQLite's online backup; durable when this returns. Writers are not held up."""
    with file.as_unavailable():
        connections = (apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READONLY), apsw.Connection(str(to)))
        with contextlib.closing(connections[0]) as read, contextlib.closing(connections[1]) as written:
            read.set_busy_timeout(int(busy_s * 1000))
            with written.backup("main", read, "main") as copying:
                while not copying.done:
                    copying.step(-1)
        files.sync(to)
        files.sync(to.parent)


def ends(log: pathlib.Path) -> dict[str, int]:
    """Of a copied event log, by partition: the offset after its last record. Nothing is written beside it."""
    uri = f"{log.absolute().as_uri()}?immutable=1"
    with (
        file.as_unavailable(),
        contextlib.closing(apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)) as connection,
    ):
        found = file.rows(connection, "SELECT topic, partition, next_offset FROM sources WHERE next_offset > 0")
    return {str(port.TopicPartition(topic, partition)): end for topic, partition, end in found}
