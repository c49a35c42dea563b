"""Of several ledgers on one PostgreSQL one leads, and writes; the others answer questions and stand by.

The lead is a lease, a row with a holder, an expiry by the server's clock and a generation that rises with each holder.
Every write of the leader extends it first, by an update that finds the row only as long as it stands under the leader's
own generation and has not run out. The row is locked until that write commits. So a ledger that was paused beyond its
lease commits nothing more: not after another took over, and not before. A SQLite database has one process, no lease.

Driven by `ledger.app`. Leases of other processes: `leases`.
"""

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator

import sqlalchemy as sa

from trimtab.core import errors, ledger
from trimtab.ledger import leases
from trimtab.ledger.store import database, tables
from trimtab.obs import logging

_log = logging.get(__name__)

# A leader that says nothing for so many leases, in the middle of a transaction, is cut off by who waits for it.
PAUSED_LEASES = 3
_AWAY_DELAY_S = 1.0
_LEASES = tables.LEASES


class LeadLost(Exception):
    """This ledger's write was refused: it does not lead any more. What it holds in memory may be out of date."""


class Lead:
    """A `database.Store` that writes only while this process leads. From any thread.

    lease_s: after so many seconds of silence another may take over.
    """

    def __init__(self, store: database.Database, lease_s: float) -> None:
        self._store = store
        self._lease_s = lease_s
        self._holder = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self._generation = 0

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """LeadLost, and nothing is written, when another may have taken over."""
        with self._store.write() as connection:
            if not self._store.shared:
                yield connection
                return
            now_us = self._store.now_us(connection)
            self._extend(connection, now_us, _LEASES.c.expires_us > now_us)
            begun = time.monotonic()
            yield connection
            if time.monotonic() - begun > self._lease_s / 3:
                # nobody could take over meanwhile: the row is locked
                self._extend(connection, self._store.now_us(connection))

    def read(self) -> contextlib.AbstractContextManager[sa.Connection]:
        return self._store.read()

    def run(self, stop: threading.Event, work: Callable[[], None], stand_by: Callable[[], None]) -> None:
        """Does the work, which ends when `stop` is set, as often as this ledger leads; in between stands by."""
        while not stop.is_set():
            try:
                if self._take():
                    work()
                else:
                    stand_by()
                    stop.wait(self._lease_s / 3)
            except LeadLost as problem:
                _log.warning("stands by", reason=str(problem))
            except (errors.ServiceUnavailable, errors.LogUnavailable) as problem:
                _log.warning("not now", consumer="lead", reason=str(problem))
                stop.wait(_AWAY_DELAY_S)

    def keep(self, stop: threading.Event) -> None:
        """Extends the lease while there is nothing to write. A lead that is lost is noticed by the next write."""
        while self._store.shared and not stop.wait(self._lease_s / 3):
            if self._generation:
                with contextlib.suppress(LeadLost, errors.ServiceUnavailable), self.write():
                    pass

    def give_up(self) -> None:
        """Lets another take over at once. A database that is away is left to the lease's end."""
        if self._generation:
            with contextlib.suppress(errors.ServiceUnavailable):
                leases.release(self._store, ledger.ReleaseLeaseRequest(tables.LEAD, self._holder))

    def _take(self) -> bool:
        if not self._store.shared:
            return True
        asked = ledger.AcquireLeaseRequest(tables.LEAD, self._holder, self._lease_s)
        with self._store.write() as connection:
            found = self._store.version(connection)
            if found != tables.VERSION:
                raise errors.WrongState(
                    f"The database has tables of version {found} since a ledger of another version began to work with "
                    f"it; this one wants version {tables.VERSION}."
                )
            granted = leases.acquire_in(connection, asked, self._store.now_us(connection))
        self._generation = granted.generation if granted.held else 0
        if granted.held:
            _log.info("leads", holder=self._holder, generation=self._generation)
        return granted.held

    def _extend(self, connection: sa.Connection, now_us: int, *condition: sa.ColumnElement[bool]) -> None:
        own = (_LEASES.c.name == tables.LEAD, _LEASES.c.holder == self._holder)
        until_us = now_us + int(self._lease_s * 1_000_000)
        extended = sa.update(_LEASES).where(*own, _LEASES.c.generation == self._generation, *condition)
        if connection.execute(extended.values(expires_us=until_us)).rowcount != 1:
            raise LeadLost(
                f"{self._holder} led under generation {self._generation}, and its lease of {self._lease_s:g} s ran out "
                "or went to another; nothing was written."
            )
