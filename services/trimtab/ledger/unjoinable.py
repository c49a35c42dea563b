"""Feedback whose answer does not come: counted and shown, never silently gone.

A policy gives an answer before its record is durable only while the log is slow; killed then, it takes the record with
it. Nobody can tell such an answer from one that is late, so time decides, and only what is shown: nothing of it is
stored, and feedback that was called unjoinable joins like any other once its answer is there.

`servicer` asks `Patience` for `counting` and `tracing`; `watch` is a thread of `app`.
"""

import datetime
import threading
from typing import Any

import sqlalchemy as sa

from trimtab.core import clock, errors, ledger
from trimtab.ledger.store import database, rows, tables
from trimtab.obs import logging, metrics

_log = logging.get(__name__)

_LOOK_S = 15.0
_FEEDBACK = tables.FEEDBACK


class Patience:
    """How long feedback may wait before its answer is taken to be lost. From any thread.

    after_s: seconds since the log took the feedback.
    """

    def __init__(self, after_s: float, now: clock.Clock = clock.utc_now) -> None:
        self._after = datetime.timedelta(seconds=after_s)
        self._now = now
        self._knows = False

    def knows(self, whether: bool) -> None:
        """Whether all that stood in the log at the start is in the database: until then nothing is said to be lost."""
        self._knows = whether

    def overdue_us(self) -> int:
        """What the log took before this, in microseconds since 1970, and still waits, is unjoinable."""
        return rows.to_us(self._now() - self._after) if self._knows else 0


def status_of(row: sa.Row[Any], overdue_us: int) -> ledger.FeedbackStatus:
    """What is said of a row of table `feedback`."""
    found = ledger.FeedbackStatus(row.status)
    overdue = found is ledger.FeedbackStatus.WAITING and row.received_us < overdue_us
    return ledger.FeedbackStatus.UNJOINABLE if overdue else found


def count(connection: sa.Connection, overdue_us: int, *rules: sa.ColumnElement[bool]) -> int:
    """How many rows of table `feedback` that satisfy the rules are unjoinable."""
    query = sa.select(sa.func.count()).select_from(_FEEDBACK)
    return int(connection.scalar(query.where(tables.WAITS, _FEEDBACK.c.received_us < overdue_us, *rules)) or 0)


def watch(store: database.Store, patience: Patience, stop: threading.Event) -> None:
    """Keeps the gauge, and says in the log when there are more."""
    told = 0
    while not stop.wait(_LOOK_S):
        try:
            with store.read() as connection:
                found = count(connection, patience.overdue_us())
        except errors.ServiceUnavailable as problem:
            _log.warning("not now", consumer="unjoinable", reason=str(problem))
            continue
        metrics.LEDGER_UNJOINABLE.set(found)
        if found > told:
            _log.warning("feedback waits for answers that seem to be lost", unjoinable=found)
        told = found
