"""Publishes examples: from the outbox to their topic, in order, at least once.

Runs in a thread of the process. A crash between the log's acknowledgement and the mark appends some again; readers drop
what they have seen by (partition, sequence).
"""

import threading

from trimtab.bus import port
from trimtab.core import errors, failpoints
from trimtab.ledger import leading
from trimtab.ledger.store import database, offsets
from trimtab.ledger.store import examples as example_store
from trimtab.obs import logging

_log = logging.get(__name__)

BATCH = 2000
# Looks by itself this often, so that nothing depends on being woken.
IDLE_S = 0.5
LOG_AWAY_DELAY_S = 1.0


class Publisher:
    """Publishes nothing before it is woken, at first and after its ledger has lost the lead: the topic must have been
    taken back (`restoring`) by then."""

    def __init__(self, log: port.EventLog, store: database.Store) -> None:
        self._log = log
        self._store = store
        self._woken = threading.Event()

    def wake(self) -> None:
        """Examples may be waiting. From any thread."""
        self._woken.set()

    def run(self, stop: threading.Event) -> None:
        """Publishes until `stop` is set. A log or a database that is away is waited for; anything else comes out."""
        awake = False
        while not stop.is_set():
            awake = self._woken.wait(IDLE_S) or awake
            if awake and not stop.is_set():
                awake = self._publish_all(stop)

    def _publish_all(self, stop: threading.Event) -> bool:
        """False when the lead was lost."""
        self._woken.clear()
        try:
            while not stop.is_set() and self.publish_some():
                pass
        except (errors.LogUnavailable, errors.ServiceUnavailable) as problem:
            _log.warning("not now", consumer="outbox", reason=str(problem))
            stop.wait(LOG_AWAY_DELAY_S)
        except leading.LeadLost as problem:
            _log.warning("stands by", consumer="outbox", reason=str(problem))
            return False
        return True

    def publish_some(self) -> bool:
        """One batch; False when there was nothing to publish."""
        with self._store.read() as connection:
            batch = example_store.unpublished(connection, BATCH)
        if not batch:
            return False
        failpoints.reach("ledger.outbox.before_append")
        positions = self._log.append([item.record for item in batch]).result()
        failpoints.reach("ledger.outbox.appended")
        upto = {item.partition: item.sequence for item in batch}
        ends: dict[port.TopicPartition, int] = {}
        for position in positions:
            source = port.TopicPartition(position.topic, position.partition)
            ends[source] = max(position.offset + 1, ends.get(source, 0))
        with self._store.write() as connection:
            example_store.mark_published(connection, upto)
            offsets.save(connection, ends)
            failpoints.reach("ledger.outbox.before_mark")
        failpoints.reach("ledger.outbox.marked")
        return True
