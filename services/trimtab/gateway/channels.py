"""One connection per address, made when first needed and closed when nobody is served there any more.

Called by `gateway.answering` and `gateway.voting`. Lives in the process's event loop.
"""

import asyncio
from collections.abc import Callable

import grpc.aio


class Channels:
    """`connect`: address to channel. `grace_s`: what calls in flight are given when their address goes."""

    def __init__(self, connect: Callable[[str], grpc.aio.Channel], *, grace_s: float) -> None:
        self._connect = connect
        self._grace_s = grace_s
        self._open: dict[str, grpc.aio.Channel] = {}
        self._closing: set[asyncio.Future[None]] = set()

    def to(self, address: str) -> grpc.aio.Channel:
        if address not in self._open:
            self._open[address] = self._connect(address)
        return self._open[address]

    def keep(self, addresses: frozenset[str]) -> None:
        """Lets go of the others; their calls in flight may end."""
        for address in self._open.keys() - addresses:
            closing = asyncio.ensure_future(self._open.pop(address).close(self._grace_s))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        self.keep(frozenset())
        await asyncio.gather(*self._closing)
