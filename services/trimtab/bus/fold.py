"""Folds: in-memory state rebuilt from a topic's beginning at each start, then kept up to date.

Called by processes whose state is a small topic (the gateway on `rollouts`, the reward service on `models`).
Consumers with a store of their own use `bus.runner`.
"""

import collections
import contextlib
import threading
from collections.abc import Callable

from trimtab.bus import deadletter, limits, port, topics
from trimtab.core import errors
from trimtab.obs import logging

_log = logging.get(__name__)

_POLL_S = 0.5
_MAX_RECORDS = 500
_LOG_AWAY_DELAY_S = 1.0


def follow(
    log: port.EventLog,
    topic: topics.Topic,
    apply: Callable[[port.Record], None],
    stop: threading.Event,
    on_caught_up: Callable[[], None],
    *,
    process: str = "fold",
) -> None:
    """Applies every record of the topic, from offset 0, until `stop` is set. Blocks: run it in a thread.

    on_caught_up: called once, when all that stood in the log at the start was applied. process: whose fold it is, for
    dead letters, logs and metrics.
    A record that `apply` refuses with `errors.MalformedRecord` or `deadletter.Never` is dead-lettered and passed over,
    within the limit; anything else it raises comes out. A log that is away is waited for. An empty value is a
    tombstone, where the topic has them: `apply` sees it. May be called again after it raised TooManyDeadLetters.
    """
    consumer = f"{process}/{topic.name}"
    letters = deadletter.DeadLetters(log, consumer, deadletter.Limit())
    start = {port.TopicPartition(topic.name, partition): 0 for partition in range(topic.partitions)}
    progress = _Progress(log, topic, on_caught_up)
    unapplied: collections.deque[port.Record] = collections.deque()
    with contextlib.closing(log.reader(start)) as reader:
        while not stop.is_set():
            try:
                letters.recall()
                while unapplied:
                    _apply_or_bury(unapplied[0], apply, letters)
                    unapplied.popleft()
                progress.look(reader)
                unapplied.extend(reader.poll(_MAX_RECORDS, _POLL_S))
            except errors.LogUnavailable as problem:
                _log.warning("not now", consumer=consumer, reason=str(problem))
                stop.wait(_LOG_AWAY_DELAY_S)


class _Progress:
    """Calls `on_caught_up` once, when a reader has passed the end that the log had at the first look."""

    def __init__(self, log: port.EventLog, topic: topics.Topic, on_caught_up: Callable[[], None]) -> None:
        self._log = log
        self._topic = topic
        self._on_caught_up = on_caught_up
        self._ends: dict[port.TopicPartition, int] | None = None
        self._done = False

    def look(self, reader: port.Reader) -> None:
        """To be called when everything polled has been applied."""
        if self._done:
            return
        if self._ends is None:
            self._ends = self._log.end_offsets(self._topic.name)
        if all(reader.position(source) >= end for source, end in self._ends.items()):
            self._done = True
            self._on_caught_up()


def _apply_or_bury(record: port.Record, apply: Callable[[port.Record], None], letters: deadletter.DeadLetters) -> None:
    try:
        limits.require_carried(record)
        apply(record)
    except (errors.MalformedRecord, deadletter.Never) as problem:
        letters.bury(record, str(problem))
    else:
        letters.handled([record])
