"""What the trainer asks of the ledger: the lease to publish on a line, and how many examples a line has.

`serve` is a task of `trainer.app` and holds the channel; `trainer.links.publishing` and `trainer.data.cuts` ask from
worker threads. One lease per line, renewed by asking again under the same holder; its generation rises when it was
lost.
"""

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trimtab_client
from trimtab.core import errors, ledger
from trimtab.wire import calls

_TIMEOUT_S = 5.0
# What the event loop may add to the deadline of the call itself.
_HANDOVER_S = 2.0
_Answer = TypeVar("_Answer")


class NotYet(Exception):
    """What is needed is on its way; nothing is wrong, and asking again is safe."""


class LeaseHeldElsewhere(NotYet):
    """Another trainer may publish on this line now; this one waits its turn."""


class LedgerLink:
    """holder: this trainer's name, the same after a restart. lease_s: how long a lease lasts unless renewed.

    From worker threads; ServiceUnavailable or DeadlineExceeded when the ledger does not answer.
    """

    def __init__(self, address: str, token: str, holder: str, lease_s: float) -> None:
        self._address = address
        self._token = token
        self._holder = holder
        self._lease_s = lease_s
        self._open: tuple[asyncio.AbstractEventLoop, calls.LedgerCalls] | None = None

    async def serve(self, stop: asyncio.Event) -> None:
        """Keeps the channel to the ledger until told to stop."""
        async with trimtab_client.connect(self._address, self._token) as channel:
            self._open = (asyncio.get_running_loop(), calls.LedgerCalls(channel))
            await stop.wait()
            self._open = None

    def generation(self, tenant: str, line: str) -> int:
        """Takes or renews the lease to publish on this line; its generation. LeaseHeldElsewhere."""
        request = ledger.AcquireLeaseRequest(f"trainer/{tenant}/{line}", self._holder, self._lease_s)
        lease = self._ask(lambda asked: asked.acquire_lease(request, timeout_s=_TIMEOUT_S))
        if not lease.held:
            raise LeaseHeldElsewhere(f"The lease {request.name!r} is held by {lease.holder!r}.")
        return lease.generation

    def standing_examples(self, tenant: str, line: str) -> int:
        """How many examples of the line stand: made and not withdrawn, published to the topic or about to be."""
        request = ledger.CountsRequest(tenant, line)
        return self._ask(lambda asked: asked.counts(request, timeout_s=_TIMEOUT_S)).examples

    def _ask(self, method: Callable[[calls.LedgerCalls], Awaitable[_Answer]]) -> _Answer:
        if self._open is None:
            raise errors.ServiceUnavailable("The channel to the ledger is not open; try again.")
        loop, asked = self._open

        async def answer() -> _Answer:
            return await method(asked)

        pending = asyncio.run_coroutine_threadsafe(answer(), loop)
        try:
            return pending.result(_TIMEOUT_S + _HANDOVER_S)
        except (TimeoutError, concurrent.futures.CancelledError) as problem:
            raise errors.DeadlineExceeded(f"The ledger did not answer within {_TIMEOUT_S} s; try again.") from problem
