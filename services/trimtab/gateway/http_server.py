"""uvicorn as one task of the process: it binds, tells its address, serves until told to stop, and drains.

Called by `gateway.app`. The process owns the signals.
"""

import asyncio
import contextlib
import dataclasses
import pathlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette import types

from trimtab.core import errors
from trimtab.obs import logging

_log = logging.get(__name__)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclasses.dataclass(slots=True)
class HttpServer:
    """`listen`: host:port; `address` is what was bound, from `bind` on."""

    application: types.ASGIApp
    listen: str
    address_file: pathlib.Path | None
    drain_s: float
    address: str = ""
    _socket: socket.socket | None = None

    def bind(self) -> None:
        """Takes the port, before anything else is started: a port in use ends the process with a sentence."""
        host, _, port = self.listen.rpartition(":")
        bare = host.strip("[]")
        # asyncio turns Nagle's delay off only where the socket says that it is TCP
        self._socket = socket.socket(_family(bare), socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((bare, int(port)))
        except (OSError, ValueError, OverflowError) as problem:
            raise errors.InvalidField(
                "http_listen", f"{self.listen!r} cannot be bound ({problem})", "give a free port as host:port"
            ) from problem
        self.address = f"{host}:{self._socket.getsockname()[1]}"

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set; answers in flight may then end."""
        if self._socket is None:
            raise RuntimeError("bind first")
        config = uvicorn.Config(
            self.application,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            # less than the process gives this task: what it cuts off, it cuts off in order
            timeout_graceful_shutdown=max(0, int(self.drain_s) - 1),
        )
        # before its address is told: who comes before uvicorn looks is kept waiting, not turned away
        self._socket.listen(config.backlog)
        server = _Server(config)
        serving = asyncio.ensure_future(server.serve(sockets=[self._socket]))
        if self.address_file is not None:
            _write_whole(self.address_file, self.address)
        _log.info("http listening", address=self.address)
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        server.should_exit = True
        await serving

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _write_whole(path: pathlib.Path, content: str) -> None:
    """Readers see the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(content)
    temporary.replace(path)
