"""Topic `rollouts` as the controller knows it: the one truth about releases, folded at start, appended durably.

Used by `rollout.desk`, under its lock. Blocking calls: use them from a thread. A record of an older lease than one
already seen of its line comes from a controller that was replaced without knowing it: it is not taken up, and its line
is `disputed` until a newer record stands after it, since others read that record too.
"""

import contextlib
import dataclasses
from collections.abc import Sequence

from trimtab.bus import port, publish, tail, topics
from trimtab.core import errors, failpoints, releases
from trimtab.obs import logging
from trimtab.rollout import line
from trimtab.wire import schemas

_CATCH_UP_S = 10.0
_log = logging.get(__name__)


class Book:
    """All lines, by (tenant, line). `append` and `refresh` are not for two threads at once."""

    def __init__(self, log: port.EventLog, config_digest: str = "") -> None:
        """config_digest: of the settings this process runs with; stamped on every record it writes."""
        self._log = log
        self._config_digest = config_digest
        self._tail = tail.Tail(log, topics.ROLLOUTS, within_s=_CATCH_UP_S)
        self._revisions: dict[tuple[str, str], int] = {}
        # Replaced, never changed in place: it is read from other threads.
        self.lines: dict[tuple[str, str], line.Line] = {}
        self.disputed: set[tuple[str, str]] = set()

    def refresh(self) -> bool:
        """Reads to the log's present end; True when there was something new. LogUnavailable when it cannot."""
        found = False
        for record in self._tail.read():
            with contextlib.suppress(errors.MalformedRecord):  # a dead letter of those who route by it
                self._apply(schemas.decode(record.value, record.headers, releases.Release))
                found = True
        return found

    def append(self, records: Sequence[releases.Release], generation: int) -> None:
        """Appends records of one line under a lease's generation; returns once they are durable and folded.

        When a release is under way its record is repeated as the last one: it must stay the one that routes.
        """
        key = (records[0].context.tenant, records[0].context.line)
        after = self.lines.get(key, line.Line(*key))
        revision = self._revisions.get(key, 0)
        stamped = []
        for record in _active_last(after, records):
            revision += 1
            context = dataclasses.replace(record.context, config_digest=self._config_digest)
            stamped.append(dataclasses.replace(record, context=context, revision=revision, generation=generation))
        new = [publish.new_record(topics.ROLLOUTS, release.id.encode(), release) for release in stamped]
        self._log.append(new).result()
        failpoints.reach("rollout.book.appended")
        self.refresh()

    def find(self, tenant: str, release_id: str) -> releases.Release:
        for (owner, _), one in self.lines.items():
            if owner == tenant and release_id in one.by_id:
                return one.by_id[release_id]
        raise errors.NotFound("release", release_id)

    def close(self) -> None:
        self._tail.close()

    def _apply(self, release: releases.Release) -> None:
        key = (release.context.tenant, release.context.line)
        known = self.lines.get(key, line.Line(*key))
        self._revisions[key] = max(release.revision, self._revisions.get(key, 0))
        written = known.by_id.get(release.id)
        if written is not None and written.generation == release.generation and written.revision > release.revision:
            return  # an older record, replayed
        if known.head is None or release.generation >= known.head.generation:
            self.lines = self.lines | {key: known.with_record(release)}
            self.disputed.discard(key)
        else:
            _log.warning("a replaced controller has written", release=release.id, generation=release.generation)
            self.disputed.add(key)


def _active_last(before: line.Line, records: Sequence[releases.Release]) -> list[releases.Release]:
    after = before
    for record in records:
        after = after.with_record(record)
    active = after.active
    if active is None or records[-1].id == active.id:
        return list(records)
    return [*(record for record in records if record.id != active.id), active]
