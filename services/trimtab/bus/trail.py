"""The audit trail as a writer of topic `audit`: each record once, however often it is put there.

Who keeps an act in the same record as its effect puts it here afterwards, and again at its next start: what the topic
has under an id is not appended again (`rollout.desk`, `trainer.runs.audits`, `cli.machine.artifacts`). Whose effect is
an append to the log asks what is missing and appends both at once (`feedback.imports`). All of it holds for one writer
of an id at a time. Blocking calls: use it from threads, one at a time.
"""

import contextlib
from collections.abc import Iterable

from trimtab.bus import port, publish, tail, topics
from trimtab.core import audit, errors, failpoints
from trimtab.wire import schemas

_CATCH_UP_S = 10.0


class Trail:
    def __init__(self, log: port.EventLog) -> None:
        self._log = log
        self._tail = tail.Tail(log, topics.AUDIT, within_s=_CATCH_UP_S)
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
        self._tail.close()

    def _read(self) -> None:
        """To the topic's present end: also an append whose answer was lost."""
        for record in self._tail.read():
            with contextlib.suppress(errors.MalformedRecord):  # a dead letter of the ledger
                self._known.add(schemas.decode(record.value, record.headers, audit.AuditRecord).id)
