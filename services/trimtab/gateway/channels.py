"""One connection per address and who is there, made when first needed and closed when nobody is served there any more.

Who is there counts because a cluster uses its names again: a slot of a line is one policy's, then another's. A channel
that knew the first one's pods would go on asking those for as long as gRPC waits between two looks at a name.

Called by `gateway.answering` and `gateway.voting`. Lives in the process's event loop.
"""

import asyncio
from collections.abc import Callable

import grpc.aio

# An address, and the policy there; empty where there is one service for good.
Place = tuple[str, str]


class Channels:
    """`connect`: address to channel. `grace_s`: what calls in flight are given when their place goes."""

    def __init__(self, connect: Callable[[str], grpc.aio.Channel], *, grace_s: float) -> None:
        self._connect = connect
        self._grace_s = grace_s
        self._open: dict[Place, grpc.aio.Channel] = {}
        self._closing: set[asyncio.Future[None]] = set()

    def to(self, address: str, policy_id: str = "") -> grpc.aio.Channel:
        place = (address, policy_id)
        if place not in self._open:
            self._open[place] = self._connect(address)
        return self._open[place]

    def keep(self, places: frozenset[Place]) -> None:
        """Lets go of the others; their calls in flight may end."""
        for place in self._open.keys() - places:
            closing = asyncio.ensure_future(self._open.pop(place).close(self._grace_s))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        self.keep(frozenset())
        await asyncio.gather(*self._closing)
