"""What operators did to runs, on its way to topic `audit`: noted with its effect, published after.

`trainer.runs.requests` notes an act in the transaction of what it does, so neither is ever without the other; a thread
of `trainer.app` publishes what is noted, also what a killed trainer left. The trail drops what the topic has already.
"""

import threading

import sqlalchemy

from trimtab.bus import port, trail
from trimtab.core import audit, errors
from trimtab.obs import logging
from trimtab.trainer.data import store
from trimtab.wire import schemas

_LOOK_EVERY_S = 1.0
_log = logging.get(__name__)


class Audits:
    def __init__(self, database: store.Store, log: port.EventLog) -> None:
        self._database = database
        self._trail = trail.Trail(log)
        self._publishing = threading.Lock()

    def target(self, connection: sqlalchemy.Connection, request_id: str) -> str:
        """What this request was done to, when it was before; empty otherwise."""
        wanted = sqlalchemy.select(store.AUDITS.c.target).where(store.AUDITS.c.id == request_id)
        return (connection.execute(wanted).scalar() or "") if request_id else ""

    def note(self, connection: sqlalchemy.Connection, record: audit.AuditRecord) -> None:
        """Inside the transaction of the effect."""
        value, headers = schemas.encode(record)
        row = {"id": record.id, "target": record.target, "published": False, "value": value}
        connection.execute(sqlalchemy.insert(store.AUDITS).values(**row, schema=headers[schemas.SCHEMA_HEADER]))

    def publish(self) -> None:
        """Returns once all that is noted is durable in the topic. LogUnavailable."""
        table = store.AUDITS
        unpublished = sqlalchemy.select(table).where(~table.c.published).order_by(table.c.ordinal)
        with self._publishing:
            with self._database.reading() as connection:
                found = connection.execute(unpublished).all()
            if not found:
                return
            headers = [{schemas.SCHEMA_HEADER: row.schema} for row in found]
            self._trail.put(
                schemas.decode(row.value, header, audit.AuditRecord) for row, header in zip(found, headers, strict=True)
            )
            with self._database.transaction() as connection:
                mine = table.c.ordinal <= found[-1].ordinal
                connection.execute(sqlalchemy.update(table).where(mine).values(published=True))

    def run(self, stop: threading.Event) -> None:
        """Publishes what is left until told to stop."""
        while not stop.is_set():
            try:
                self.publish()
            except errors.LogUnavailable as problem:
                _log.warning("not now", what="audit trail", reason=str(problem))
            stop.wait(_LOOK_EVERY_S)
