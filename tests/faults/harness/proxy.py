"""A TCP proxy that is slow, breaks connections, or is cut off: stands between two processes, in a thread of its own."""

import asyncio
import contextlib
import random
import socket
import struct
import threading

_CHUNK = 64 * 1024
# Closing a socket that is told so sends a reset instead of an end.
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Listens on a free port of the loopback interface, or of another address that is ours; `target`, a port of the
    loopback interface, may be set, and set anew, at any time.

    latency_s: added to what goes to the target. resets: share of what is sent to the target (a read of the socket each)
    that meets a reset of its connection, every other time only when the target has answered.
    """

    def __init__(self, seed: int, target: int = 0, address: str = "127.0.0.1") -> None:
        self.target = target
        self.latency_s = 0.0
        self.resets = 0.0
        self._open = threading.Event()
        self._open.set()
        self.broken = 0
        self._rng = random.Random(f"proxy {seed}")
        self._listening = socket.create_server((address, 0))
        self.port: int = self._listening.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """From now on nothing passes, and no connection ends by it."""
        self._open.clear()

    def mend(self) -> None:
        """What was held up goes on."""
        self._open.set()

    def close(self) -> None:
        self.mend()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        links: set[asyncio.Task[None]] = set()

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            links.add(task)
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._link(reader, writer)
            links.discard(task)

        server = await asyncio.start_server(take, sock=self._listening)
        await self._stop.wait()
        server.close()
        for link in [*links]:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it or chance does."""
        there_writer = None
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target)
            link = _Link(self, writer)
            ways = [
                asyncio.create_task(way)
                for way in (link.onwards(reader, there_writer), link.back(there_reader, writer))
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        finally:
            for end in filter(None, (writer, there_writer)):
                end.close()

    def draws_reset(self) -> bool:
        return self.resets > 0 and self._rng.random() < self.resets

    def draws_early(self) -> bool:
        return self._rng.random() < 0.5

    async def passable(self) -> None:
        """Returns while nothing is cut off."""
        if not self._open.is_set():
            await asyncio.to_thread(self._open.wait)


class _Link:
    """Both ways of one connection."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = client
        self._doomed = False

    async def onwards(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """To the target: late, and now and then not at all. What is on its way does not hold up what comes after."""
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                await self._proxy.passable()
                target.write(data)
                await target.drain()

        delivering = asyncio.create_task(deliver())
        try:
            while data := await source.read(_CHUNK):
                if self._proxy.draws_reset():
                    if self._proxy.draws_early():
                        self._reset()
                        return
                    self._doomed = True
                under_way.put_nowait((loop.time() + self._proxy.latency_s, data))
        finally:
            delivering.cancel()

    async def back(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(_CHUNK):
            await self._proxy.passable()
            if self._doomed:
                self._reset()
                return
            target.write(data)
            await target.drain()

    def _reset(self) -> None:
        self._proxy.broken += 1
        self._client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._client.transport.abort()
