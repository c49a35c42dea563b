"""The one place where releases are decided and written: a lock, the lease, the book, the audit trail.

Shared by the controller's loop (`rollout.controller`) and the operators' verbs (`rollout.operations`): whoever decides
holds the lock from reading the book to having written. Only the holder of the lease writes, and its generation is on
every record.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from trimtab.bus import port, trail
from trimtab.core import audit, clock, errors, failpoints, ledger, releases, text
from trimtab.obs import logging, metrics
from trimtab.rollout import book, line

LEASE = "rollout"
_log = logging.get(__name__)


class Leases(Protocol):
    async def acquire_lease(
        self, request: ledger.AcquireLeaseRequest, *, timeout_s: float = ...
    ) -> ledger.AcquireLeaseResponse: ...

    async def release_lease(self, request: ledger.ReleaseLeaseRequest, *, timeout_s: float = ...) -> None: ...


class Election(Protocol):
    """Which of several controllers asks for the lease. Blocking; ServiceUnavailable when nobody can say."""

    def won(self) -> bool: ...

    def give_back(self) -> None: ...


class Lease:
    """The right to write. Renewed at every look; lost when the ledger cannot be asked for as long as it lasts."""

    def __init__(
        self,
        leases: Leases,
        holder: str,
        ttl_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        election: "Election | None" = None,
    ) -> None:
        """election: what is asked first; of those that win it the ledger's row decides, which fences."""
        self._leases = leases
        self._holder = holder
        self._ttl_s = ttl_s
        self._monotonic = monotonic
        self._generation = 0
        self._until = 0.0
        self._other = ""
        self._election = election
        # Whether the ledger has said yes or no at least once.
        self.answered = False

    async def renew(self) -> bool:
        """Asks when a third of the time has passed; whether it is held."""
        if self._until - self._monotonic() > self._ttl_s * 2 / 3:
            return True
        if not await self._elected():
            self.answered, self._until, self._other = True, 0.0, "another controller"
            return False
        asked_at = self._monotonic()
        try:
            answer = await self._leases.acquire_lease(
                ledger.AcquireLeaseRequest(LEASE, self._holder, self._ttl_s), timeout_s=self._ttl_s / 3
            )
        except (errors.ServiceUnavailable, errors.DeadlineExceeded, errors.Overloaded) as problem:
            _log.warning("the lease could not be renewed", reason=str(problem))
            return self.held
        self.answered = True
        if answer.held:
            # Counted from before the question, so never longer than the ledger counts.
            self._generation, self._until = answer.generation, asked_at + self._ttl_s
        else:
            self._until, self._other = 0.0, answer.holder
        return answer.held

    async def _elected(self) -> bool:
        """Whether to ask the ledger. Where nobody can say, the ledger decides alone."""
        if self._election is None:
            return True
        try:
            return await asyncio.to_thread(self._election.won)
        except (errors.ServiceUnavailable, errors.Overloaded) as problem:
            _log.warning("the cluster does not say which controller acts", reason=str(problem))
            return True

    @property
    def held(self) -> bool:
        return self._monotonic() < self._until

    @property
    def generation(self) -> int:
        """ServiceUnavailable when the lease is not held."""
        if not self.held:
            holder = f"{self._other!r} holds it" if self._other else "the ledger has not granted it"
            raise errors.ServiceUnavailable(
                f"This rollout controller has no lease to act ({holder}); try again shortly."
            )
        return self._generation

    async def give_back(self) -> None:
        """So that the next controller need not wait for it to run out."""
        if self.held:
            with contextlib.suppress(errors.ServiceUnavailable, errors.DeadlineExceeded):
                await self._leases.release_lease(ledger.ReleaseLeaseRequest(LEASE, self._holder), timeout_s=2.0)
            self._until = 0.0
        if self._election is not None:
            with contextlib.suppress(errors.ServiceUnavailable, errors.Overloaded):
                await asyncio.to_thread(self._election.give_back)


class Desk:
    """`lines` may be read at any time; to decide, hold `deciding()`."""

    def __init__(
        self,
        log: port.EventLog,
        lease: Lease,
        now: clock.Clock,
        config_digest: str,
        told: Callable[[releases.Release], None] | None = None,
    ) -> None:
        """told: of every release that enters a state, in a thread; None: nobody is."""
        self.lease = lease
        self._told = told
        self.now = now
        self._trail = trail.Trail(log)
        self._book = book.Book(log, config_digest)
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self.wake = asyncio.Event()
        self.ending = False

    @contextlib.asynccontextmanager
    async def deciding(self) -> AsyncIterator[None]:
        """Alone with the newest records. ServiceUnavailable without the lease."""
        async with self._lock:
            await self._refresh()
            _ = self.lease.generation
            yield

    async def heal(self) -> None:
        """Repeats the record that routes a line where another one is the newest. Call inside `deciding()`.

        So it is after a replaced controller has written, and where a log stored the first records of an append alone.
        """
        for key, one in sorted(self.lines.items()):
            routes = one.active or one.head
            if routes is not None and (routes is not one.head or key in self._book.disputed):
                await self.write(routes)

    async def look(self) -> None:
        """Takes up what stands in the log; for readers, also without the lease."""
        async with self._lock:
            await self._refresh()

    @property
    def lines(self) -> dict[tuple[str, str], line.Line]:
        return self._book.lines

    def line(self, tenant: str, name: str) -> line.Line:
        return self._book.lines.get((tenant, name), line.Line(tenant, name))

    def find(self, tenant: str, release_id: str) -> releases.Release:
        return self._book.find(tenant, release_id)

    async def write(self, *records: releases.Release) -> None:
        """Appends records of one line. Call inside `deciding()`."""
        failpoints.reach("rollout.desk.before_write")
        before = {release.id: release for one in self.lines.values() for release in one.by_id.values()}
        await asyncio.to_thread(self._book.append, records, self.lease.generation)
        failpoints.reach("rollout.desk.written")
        for record in records:
            if record.id not in before or before[record.id].state is not record.state:
                _tell(record)
                if self._told is not None:
                    await asyncio.to_thread(self._told, record)
        self._announce()
        await self.put_on_trail()

    async def put_on_trail(self) -> None:
        """Repeats what operators did on topic `audit`. Call inside `deciding()`.

        An act and its effect are one record, so neither is ever without the other; what a killed controller left out
        here its successor puts there at its first look.
        """
        acted = (release for one in self.lines.values() for release in one.by_id.values() if release.acts)
        await asyncio.to_thread(self._trail.put, [entry for release in acted for entry in _entries(release)])

    @property
    def next_change(self) -> asyncio.Event:
        """Set at the next new record. Take it before reading, so that nothing is missed in between."""
        return self._changed

    def end_watches(self) -> None:
        """Lets go of everyone who watches: the process is about to end."""
        self.ending = True
        self._announce()

    async def close(self) -> None:
        await self.lease.give_back()
        await asyncio.to_thread(self._book.close)
        await asyncio.to_thread(self._trail.close)

    async def _refresh(self) -> None:
        if await asyncio.to_thread(self._book.refresh):
            self._announce()

    def _announce(self) -> None:
        """Wakes everyone who waits; those who come later wait for the next one."""
        self._changed.set()
        self._changed = asyncio.Event()


def _entries(release: releases.Release) -> list[audit.AuditRecord]:
    return [
        audit.AuditRecord(
            id=act.id,
            context=text.Context(release.context.tenant, release.context.line),
            at=act.at,
            actor=act.actor,
            act=act.act,
            target=act.target,
            reason=act.reason,
        )
        for act in release.acts
    ]


def _tell(release: releases.Release) -> None:
    metrics.ROLLOUT_TRANSITIONS.labels(release.context.line, release.state.value).inc()
    _log.info(
        "release",
        release=release.id,
        line=release.context.line,
        candidate=release.candidate_id,
        state=release.state.value,
        reason=release.history[-1].reason,
        actor=release.history[-1].actor,
    )
