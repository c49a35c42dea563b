"""SqliteLog: the EventLog port over one SQLite file. Built by `bus.connect`; the parts are in this package."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import apsw

from trimtab.bus import limits, port
from trimtab.bus.sqlite import file, reader, writer
from trimtab.core import clock


class SqliteLog:
    """Implements `port.EventLog`. Thread-safe; several processes may have the file open.

    deadline_s: an append resolves, one way or the other, within it. Not usable after fork: open it in the child.
    """

    def __init__(self, path: pathlib.Path, *, deadline_s: float = 5.0, now: clock.Clock = clock.utc_now) -> None:
        """Creates the file where it is missing. LogUnavailable when it cannot; file.RefusedToStart when it must not."""
        file.require_safe_sqlite(apsw.sqlite_lib_version())
        self._path = path
        self._deadline_s = deadline_s
        self._pid = os.getpid()
        with file.as_unavailable(), contextlib.ExitStack() as opened:
            path.parent.mkdir(parents=True, exist_ok=True)
            turnstile = file.Turnstile(path)
            opened.callback(turnstile.close)
            self._sources = file.prepare(path, turnstile, deadline_s)
            connection = file.connect(path, deadline_s)
            opened.pop_all()  # from here on they are the writer's to close
        self._writer = writer.Writer(connection, turnstile, deadline_s, now)

    def append(self, records: Sequence[port.NewRecord]) -> concurrent.futures.Future[list[port.Position]]:
        """See the port. One append is one atomic unit whatever its partitions."""
        self._require_same_process()
        return self._writer.submit([self._row(record) for record in records])

    def reader(self, start: Mapping[port.TopicPartition, int]) -> port.Reader:
        self._require_same_process()
        assigned = {source: (self._source_id(source), start[source]) for source in start}
        with file.as_unavailable():
            return reader.SqliteReader(file.connect(self._path, self._deadline_s), assigned, self._writer.closed)

    def partitions(self, topic: str) -> int:
        return limits.topic(topic).partitions

    def end_offsets(self, topic: str) -> dict[port.TopicPartition, int]:
        self._require_same_process()
        limits.topic(topic)
        with file.as_unavailable(), contextlib.closing(file.connect(self._path, self._deadline_s)) as connection:
            rows = file.rows(connection, "SELECT partition, next_offset FROM sources WHERE topic = ?", (topic,))
        return {port.TopicPartition(topic, partition): end for partition, end in rows}

    def clean(self) -> None:
        """Compaction and retention now, instead of when they are next due."""
        self._require_same_process()
        self._writer.clean().result()

    def on_fault(self, tell: Callable[[BaseException], None]) -> None:
        """See the port."""
        self._writer.threads.on_fault(tell)

    def close(self) -> None:
        self._writer.close()

    def _row(self, record: port.NewRecord) -> writer.Row:
        partition = limits.placed(record)
        headers = json.dumps({name: value.decode("latin-1") for name, value in record.headers.items()})
        source = self._sources[record.topic, partition]
        return writer.Row(source, record.topic, partition, bytes(record.key), headers, bytes(record.value))

    def _source_id(self, source: port.TopicPartition) -> int:
        limits.require_partition(source.topic, source.partition)
        return self._sources[source.topic, source.partition]

    def _require_same_process(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError("This event log was opened before fork; open it in the process that uses it.")
