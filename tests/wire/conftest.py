"""A real process over loopback, with whatever services a test gives it."""

import contextlib
import logging
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import grpc.aio
import pytest

import trimtab_client
from trimtab.rpc import process, secrets, settings


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    """Processes configure the logs of the whole interpreter; tests give them back."""
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    yield
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


class Served(NamedTuple):
    """A process under test, and a channel to it that carries the token."""

    channel: grpc.aio.Channel
    address: str
    process: process.Process
    stop: Callable[[], Awaitable[None]]


Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve(tmp_path: pathlib.Path) -> AsyncIterator[Serve]:
    """`await serve(add_XServicer_to_server, servicer)` starts a process of that service."""
    path = tmp_path / "secrets.toml"
    secrets.create(path, "acme")
    config = settings.ProcessSettings(
        log_url="sqlite:////nowhere",
        registry_url="file:///nowhere",
        cache=tmp_path,
        lines_file=tmp_path,
        secrets_file=path,
        drain_s=0.2,
    )
    async with contextlib.AsyncExitStack() as stack:

        async def start(register: Callable[[Any, grpc.aio.Server], None], servicer: Any, **connection: Any) -> Served:
            made = process.Process("served", config)
            made.add_service(lambda server: register(servicer, server), "trimtabapi.test.v1.Service")
            running = await stack.enter_async_context(contextlib.AsyncExitStack())
            address = await running.enter_async_context(made.serving())
            channel = trimtab_client.connect(address, made.secrets.internal_token, **connection)
            return Served(await stack.enter_async_context(channel), address, made, running.aclose)

        yield start
