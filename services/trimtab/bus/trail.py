"""The audit trail as a writer of topic `audit`: each record once, however often it is put there.

Who keeps an act in the same record as its effect puts it here afterwards, and again at its next start: what the topic
has under an id is not appended again (`rollout.desk`, `trainer.runs.audits`, `cli.machine.artifacts`). Whose effect is
an append to the log asks what is missing and appends both at once (`feedback.imports`). All of it holds for one writer
of an id at a time. Blocking calls: use it from threads, one at a time.
"""

import time
from collections.abc import Iterable

from trimtab.bus import port, publish, topics
from trimtab.core import audit, errors, failpoints
from trimtab.wire import schemas

_BATCH = 500
_POLL_S = 0.05
_CATCH_UP_S = 10.0


class Trail:
    def __init__(self, log: port.EventLog) -> None:
        self._log = log
        self._reader: port.Reader | None = None
        self._known: set[str] = set()

    def put(self, records: Iterable[audit.AuditRecord]) -> None:
        """Returns once all of them are durable. LogUnavailable: put them again."""
        for entry in self.missing(records):
            failpoints.reach("trail.before_append")
            self._log.append([entry]).result()
            failpoints.reach("trail.appended")

    def missing(self, records: Iterable[audit.AuditRecord]) -> list[port.NewRecord]:
        """Those that the topic does not have, to be appended next. LogUnavailable."""
        wanted = [record for record in records if record.id not in self._known]
        if wanted:
            self._read()
        return [
            publish.new_record(topics.AUDIT, record.context.tenant.encode(), record)
            for record in wanted
            if record.id not in self._known
        ]

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _read(self) -> None:
        """To the topic's present end: also an append whose answer was lost."""
        if self._reader is None:
            self._reader = self._log.reader({port.TopicPartition(topics.AUDIT.name, 0): 0})
        ends = self._log.end_offsets(topics.AUDIT.name)
        deadline = time.monotonic() + _CATCH_UP_S
        while any(self._reader.position(source) < end for source, end in ends.items()):
            for record in self._reader.poll(_BATCH, _POLL_S):
                self._known.add(schemas.decode(record.value, record.headers, audit.AuditRecord).id)
            if time.monotonic() > deadline:
                raise errors.LogUnavailable(f"The log did not give topic {topics.AUDIT.name!r} up to its end.")
