"""The life of every process: start, serve, unready, drain, close.

Used by each service's app.py: `launch(config, "policy", build)`, where `build` is the composition root: it
makes a `Process`, adds services, threads and closers, and returns it. Shutdown is start-up reversed: health says
NOT_SERVING, intake tasks end, the server finishes the calls in flight, workers end, closers run in reverse order.
Exit codes: 0 after SIGTERM or SIGINT, 1 when a worker failed, 2 when it could not start (one sentence says why).
"""

import asyncio
import contextlib
import functools
import gc
import hmac
import inspect
import os
import pathlib
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NoReturn, TypeVar

import grpc
import grpc.aio
import prometheus_client
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from trimtab.bus import connect, port
from trimtab.core import errors
from trimtab.obs import logging, metrics
from trimtab.rpc import interceptors, secrets, settings, workers

# Asked for health by this name, a process serves from when it listens until it drains, ready or not: what a liveness
# probe asks, since a process that rebuilds for an hour must not be killed for it.
LIVE = "trimtab.live"
# How long clients are given to see NOT_SERVING before the server takes no more calls.
ANNOUNCE_S = 0.25
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # two processes on one port is a mistake, not load balancing
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)
# Objects that are made before the collector looks for cycles.
_LOOK_AFTER = 50_000
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_Settings = TypeVar("_Settings", bound=settings.ProcessSettings)
Close = Callable[[], Awaitable[None] | None]


def launch(config: _Settings, program: str, build: "Callable[[_Settings], Process]") -> None:
    """Builds the process and runs it to its end; a process that cannot be built says why in one sentence."""
    try:
        process = build(config)
    except (errors.TrimtabError, OSError) as problem:
        settings.refuse(program, str(problem))
    process.run()


def collect_rarely() -> None:
    """For a process that reads records by the thousand.

    A batch keeps some hundred thousand objects until it commits, and a collector that looks at them every 700, as
    Python has it, takes a fifth of the time that a record does.
    """
    gc.set_threshold(_LOOK_AFTER)


class Process:
    """One process with one gRPC server. Everything is added before `run`.

    `secrets` are those of the settings' file. Callers show the internal token, unless the process has its own idea of
    who may call (`authenticate`, see `rpc.interceptors`; the gateway has).
    """

    def __init__(
        self,
        name: str,
        config: settings.ProcessSettings,
        *,
        authenticate: interceptors.Authenticate | None = None,
    ) -> None:
        self.name = name
        self.settings = config
        self.secrets = secrets.load(config.secrets_file)
        self.address = ""
        logging.configure(name, config.log_level)
        self._log = logging.get("trimtab.process")
        self._interceptor = interceptors.CallInterceptor(authenticate or functools.partial(internal_only, self.secrets))
        self._services: dict[str, Callable[[grpc.aio.Server], None]] = {}
        self._workers = workers.Workers()
        self._closers: list[Close] = []
        self._health = health.aio.HealthServicer()
        self._gates: set[str] = set()
        self._gate_lock = threading.Lock()
        self._ready = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def add_service(self, register: Callable[[grpc.aio.Server], None], full_name: str) -> None:
        """`register` adds the servicer to the server; full_name: e.g. "trimtabapi.policy.v1.PolicyService"."""
        self._services[full_name] = register

    def add_thread(self, name: str, run: Callable[[threading.Event], None]) -> None:
        """A blocking worker that returns soon after its event is set. An exception in it ends the process."""
        self._workers.add_thread(name, run)

    def add_task(self, name: str, run: Callable[[asyncio.Event], Awaitable[None]], *, intake: bool = False) -> None:
        """An asyncio worker. With `intake` it is told to end before the server stops (an HTTP door), else after."""
        self._workers.add_task(name, run, intake=intake)

    def on_close(self, close: Close) -> None:
        """Runs after everything else has ended; the last added runs first."""
        self._closers.append(close)

    def open_log(self) -> port.EventLog:
        """The event log of the settings, closed at the end. A fault in its own threads ends the process like that of a
        worker: one that appends nothing must not look healthy."""
        log = connect.open_log(self.settings.log_url, self.settings.log_security())
        self.on_close(log.close)
        log.on_fault(functools.partial(self._workers.fail, "event log"))
        return log

    def add_readiness(self, name: str) -> Callable[[], None]:
        """The process reports SERVING only after the function returned here was called, from any thread."""
        with self._gate_lock:
            self._gates.add(name)
        return functools.partial(self._open_gate, name)

    def run(self) -> NoReturn:
        """Serves until SIGTERM or SIGINT, then ends the interpreter: with exit code 1 when a worker failed."""
        served = asyncio.run(self._run())
        # All that was opened is closed. What the interpreter would do now takes torch seconds, and never ends beside a
        # worker that did not stop.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0 if served else 1)

    async def _run(self) -> bool:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            async with self.serving():
                await self._workers.stopped_or_failed(stop)
        except StartupProblem as problem:
            settings.refuse(self.name, str(problem))
        return not self._workers.failed

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Starts everything, gives the bound address, and stops everything in reverse. Tests use it in process."""
        self._loop = asyncio.get_running_loop()
        self._log.info("starting", settings=self.settings.model_dump(mode="json"), digest=self.settings.digest())
        async with contextlib.AsyncExitStack() as stack:
            for close in self._closers:
                stack.push_async_callback(_closed, close)
            server = await self._listen(stack)
            self._workers.start()
            stack.push_async_callback(self._workers.stop, self.settings.drain_s)
            readiness = asyncio.create_task(self._announce_when_ready())
            stack.push_async_callback(self._drain, server, readiness)
            yield self.address
        self._log.info("stopped")

    async def _listen(self, stack: contextlib.AsyncExitStack) -> grpc.aio.Server:
        server = grpc.aio.server(interceptors=[self._interceptor], options=_OPTIONS)
        await self._set_health(_NOT_SERVING)
        await self._health.set(LIVE, _SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        for register in self._services.values():
            register(server)
        if self.settings.reflection:
            names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        self.address = _bind(server, self.settings.listen)
        self._serve_metrics(stack)
        await server.start()
        if self.settings.address_file is not None:
            _write_whole(self.settings.address_file, self.address)
        self._log.info("listening", address=self.address)
        return server

    def _serve_metrics(self, stack: contextlib.AsyncExitStack) -> None:
        if not self.settings.metrics_port:
            return
        host = self.settings.listen.rpartition(":")[0].strip("[]")
        try:
            server, thread = prometheus_client.start_http_server(self.settings.metrics_port, addr=host)
        except OSError as problem:
            raise StartupProblem(
                f"`metrics_port` {self.settings.metrics_port} cannot be used ({problem})."
            ) from problem
        stack.callback(thread.join)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)

    async def _announce_when_ready(self) -> None:
        with self._gate_lock:
            waiting = sorted(self._gates)
            if not waiting:
                self._ready.set()
        if waiting:
            self._log.info("waiting", gates=waiting)
        await self._ready.wait()
        await self._set_health(_SERVING)
        metrics.READY.set(1)
        self._log.info("serving", address=self.address)

    def _open_gate(self, name: str) -> None:
        with self._gate_lock:
            self._gates.discard(name)
            if not self._gates and self._loop is not None:
                self._loop.call_soon_threadsafe(self._ready.set)

    async def _drain(self, server: grpc.aio.Server, readiness: asyncio.Task[None]) -> None:
        readiness.cancel()
        self._log.info("draining", seconds=self.settings.drain_s)
        metrics.READY.set(0)
        await self._health.enter_graceful_shutdown()
        await self._workers.stop_intake(self.settings.drain_s)
        await asyncio.sleep(min(ANNOUNCE_S, self.settings.drain_s))
        self._interceptor.end_watches()
        await server.stop(self.settings.drain_s)

    async def _set_health(self, status: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
        for service in ("", *self._services):
            await self._health.set(service, status)


class StartupProblem(Exception):
    """The process cannot start; the sentence is for the operator."""


def internal_only(known: secrets.Secrets, token: str) -> str:
    """Admits the processes of this installation, which share one token."""
    if not hmac.compare_digest(token.encode(), known.internal_token.encode()):
        raise errors.NotAuthenticated("processes send the installation's internal token, apps go to the gateway")
    return "internal"


def _bind(server: grpc.aio.Server, listen: str) -> str:
    """Binds and returns host:port as bound."""
    host, _, port = listen.rpartition(":")
    try:
        # tried first: when gRPC fails to bind, it writes lines of its own that are no JSON
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host.strip("[]"), int(port)), family=family).close()
        bound = server.add_insecure_port(listen)
    except (OSError, RuntimeError, ValueError, OverflowError) as problem:
        raise StartupProblem(
            f"`listen` {listen!r} cannot be bound ({problem}); give a free port of this machine as host:port."
        ) from problem
    return f"{host}:{bound}"


def _write_whole(path: pathlib.Path, text: str) -> None:
    """Readers see the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


async def _closed(close: Close) -> None:
    result = close()
    if inspect.isawaitable(result):
        await result
