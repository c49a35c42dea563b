"""A topic read to its present end, and on from there at the next look: for those who follow it without a thread.

Used by whoever has to know what a topic says at this moment (`bus.trail`, `bus.letters`, `rollout.book`). Who is told
of every record as it comes uses `bus.fold`. Blocking calls: use them from threads, one at a time.
"""

import time
from collections.abc import Iterator, Mapping

from trimtab.bus import port, topics
from trimtab.core import errors

_BATCH = 500
_POLL_S = 0.05


class Tail:
    """Opened at the first look. start: by partition, where to begin; None: every partition from its oldest record."""

    def __init__(
        self,
        log: port.EventLog,
        topic: topics.Topic,
        *,
        within_s: float,
        start: Mapping[port.TopicPartition, int] | None = None,
    ) -> None:
        self._log = log
        self._topic = topic
        self._within_s = within_s
        self._start = start or {port.TopicPartition(topic.name, one): 0 for one in range(topic.partitions)}
        self._reader: port.Reader | None = None

    def read(self) -> Iterator[port.Record]:
        """What has come since the last look, up to the end that the log has now.

        LogUnavailable when it is away, or has not given that within `within_s`.
        """
        if self._reader is None:
            self._reader = self._log.reader(self._start)
        ends = self._log.end_offsets(self._topic.name)
        give_up_at = time.monotonic() + self._within_s
        while any(self._reader.position(source) < ends[source] for source in self._start):
            yield from self._reader.poll(_BATCH, _POLL_S)
            if time.monotonic() > give_up_at:
                raise errors.LogUnavailable(f"The log did not give topic {self._topic.name!r} up to its end.")

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
