"""A ledger that does not lead: what it must know before it answers questions. Called by `leading`, built by `app`."""

from collections.abc import Callable, Mapping

from trimtab.bus import port
from trimtab.ledger import consumer
from trimtab.ledger.store import database


class Standby:
    """Says once, until it leads, that all that stood in the log at the first look is in the database, whoever put it
    there."""

    def __init__(self, log: port.EventLog, store: database.Store, on_caught_up: Callable[[], None]) -> None:
        self._log = log
        self._store = store
        self._on_caught_up = on_caught_up
        self._targets: Mapping[port.TopicPartition, int] | None = None
        self._done = False

    def begin_again(self) -> None:
        """It leads now; should it stand by once more, it has to look again."""
        self._targets, self._done = None, False

    def look(self) -> None:
        """LogUnavailable or ServiceUnavailable when one of the two is away: look again."""
        if self._done:
            return
        if self._targets is None:
            self._targets = consumer.targets(self._log, self._store)
        positions, rebuilding = consumer.stored(self._store)
        if not rebuilding and all(positions.get(source, 0) >= end for source, end in self._targets.items()):
            self._done = True
            self._on_caught_up()
