"""Compaction and retention of the embedded log, in small transactions. Called by the writer's thread in its turn.

Both leave gaps: offsets come from `sources.next_offset`, which no cleaning touches, so none is ever used again.
"""

import datetime
import itertools
import time
from collections.abc import Iterator

import apsw

from trimtab.bus import topics
from trimtab.bus.sqlite import file
from trimtab.core import clock

# Whichever process comes first cleans; the others see in the file that it was done.
PERIOD = datetime.timedelta(minutes=5)
# A reader that started before a tombstone must have had the time to see it.
TOMBSTONES_KEPT = datetime.timedelta(days=1)
PIECE_RECORDS = 500
_LOOK_EVERY_S = 60.0

_SUPERSEDED = """
SELECT id FROM records WHERE id >= :first AND id < :last AND (
    id NOT IN (SELECT max(id) FROM records WHERE id >= :first AND id < :last GROUP BY key)
    OR (length(value) = 0 AND at_us < :before)
) ORDER BY id
"""
_OLDEST = "SELECT id, at_us FROM records WHERE id >= :first AND id < :last ORDER BY id LIMIT :count"


class Cleaner:
    """Works on the writer's connection."""

    def __init__(self, connection: apsw.Connection, now: clock.Clock) -> None:
        self._connection = connection
        self._now = now
        self._look_at = time.monotonic() + _LOOK_EVERY_S

    def due(self) -> bool:
        """Whether no process has cleaned for PERIOD. Looks into the file once a minute."""
        if time.monotonic() < self._look_at:
            return False
        self._look_at = time.monotonic() + _LOOK_EVERY_S
        last = self._connection.execute("SELECT at_us FROM cleanings").get
        return bool(last < clock.microseconds(self._now() - PERIOD))

    def start(self) -> None:
        """Tells the other processes that this one cleans. Like `delete`, a write: the turn must be held."""
        with file.transaction(self._connection):
            self._connection.execute("UPDATE cleanings SET at_us = ?", (clock.microseconds(self._now()),))

    def pieces(self) -> Iterator[list[int]]:
        """Ids to delete, a piece at a time. What is superseded or expired stays so: no lock needed to look."""
        for source, name in file.rows(self._connection, "SELECT id, topic FROM sources"):
            topic = topics.ALL.get(name)
            if topic is None:
                continue  # a newer program's topic is that program's to clean
            first = source << file.OFFSET_BITS
            if topic.cleanup is topics.Cleanup.COMPACT:
                yield from self._superseded(first)
            elif topic.cleanup is topics.Cleanup.TIME:
                yield from self._expired(first, datetime.timedelta(days=topic.retention_days))

    def delete(self, piece: list[int]) -> None:
        with file.transaction(self._connection):
            self._connection.executemany("DELETE FROM records WHERE id = ?", [(number,) for number in piece])

    def _superseded(self, first: int) -> Iterator[list[int]]:
        """All of a key but its newest record, and tombstones that had their time; oldest first."""
        before = clock.microseconds(self._now() - TOMBSTONES_KEPT)
        bounds = {"first": first, "last": first + (1 << file.OFFSET_BITS), "before": before}
        numbers = iter([number for (number,) in file.rows(self._connection, _SUPERSEDED, bounds)])
        while piece := list(itertools.islice(numbers, PIECE_RECORDS)):
            yield piece

    def _expired(self, first: int, kept: datetime.timedelta) -> Iterator[list[int]]:
        """Records from the oldest on, up to the first that is young enough."""
        before = clock.microseconds(self._now() - kept)
        bounds = {"first": first, "last": first + (1 << file.OFFSET_BITS), "count": PIECE_RECORDS}
        while True:
            oldest = file.rows(self._connection, _OLDEST, bounds)
            piece = [number for number, _ in itertools.takewhile(lambda row: row[1] < before, oldest)]
            if piece:
                yield piece
            if len(piece) < PIECE_RECORDS:
                return
            bounds["first"] = piece[-1] + 1
