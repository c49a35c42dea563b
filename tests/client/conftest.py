"""Clients, sync and async, of a gateway that says what a test wants; and one whole platform for all tests here."""

import asyncio
import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeAlias

import grpc.aio
import pytest
from tests.client import gateway, living

import trimtab_client
from trimtab.rpc import interceptors

Client: TypeAlias = trimtab_client.Trimtab | trimtab_client.AsyncTrimtab
_ASKED = ("Why is the sky blue?", "And then?", "How?", "Is it the sea?")
_SAID = "Because the air scatters blue light more than red."


@dataclasses.dataclass(frozen=True)
class App:
    """An app with one of the two clients, connected to a gateway of a test's own."""

    client: Any
    address: str
    policies: gateway.Policies
    votes: gateway.Votes

    async def call(self, method: Callable[[Any], Any]) -> Any:
        """What a method of the client gives, once it is there; of a stream, the list of its pieces."""
        if isinstance(self.client, trimtab_client.Trimtab):
            return await asyncio.to_thread(_done, method, self.client)
        given = method(self.client)
        return [piece async for piece in given] if hasattr(given, "__aiter__") else await given


def _done(method: Callable[[Any], Any], client: trimtab_client.Trimtab) -> Any:
    given = method(client)
    return list(given) if isinstance(given, Iterator) else given


@pytest.fixture
async def served() -> AsyncIterator[tuple[str, gateway.Policies, gateway.Votes]]:
    server = grpc.aio.server(interceptors=[interceptors.CallInterceptor(gateway.authenticate)])
    policies, votes = gateway.Policies(), gateway.Votes()
    policies.register(server)
    votes.register(server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield address, policies, votes
    await server.stop(None)


@pytest.fixture(params=["sync", "async"])
async def app(
    request: pytest.FixtureRequest, served: tuple[str, gateway.Policies, gateway.Votes]
) -> AsyncIterator[App]:
    address, policies, votes = served
    async with contextlib.AsyncExitStack() as stack:
        client: Client
        if request.param == "sync":
            client = stack.enter_context(trimtab_client.Trimtab(address, api_key=gateway.KEY, line=gateway.LINE))
        else:
            opened = trimtab_client.AsyncTrimtab(address, api_key=gateway.KEY, line=gateway.LINE)
            client = await stack.enter_async_context(opened)
        yield App(client, address, policies, votes)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[living.Up]:
    """`trimtab up` on a policy that knows one answer, and gives it again when it is asked again."""
    policy = tmp_path_factory.mktemp("policy")
    _write_policy(policy)
    up = living.Up(tmp_path_factory.mktemp("up"), policy)
    try:
        up.start()
        yield up
    finally:
        up.destroy()


def _write_policy(folder: pathlib.Path) -> None:
    """A tiny language model, taught one answer to a few questions."""
    import torch  # seconds, which the tests that need no platform do not wait for

    from trimtab.modeling import loading, tiny

    torch.set_num_threads(1)
    tokenizer = tiny.train_bpe([*_ASKED, _SAID], vocab_size=300)
    model = tiny.tiny_llama(len(tokenizer), 1, hidden=32, layers=2, heads=2, intermediate=64)
    rows = [f"{tiny.USER}{question}{tiny.END}{tiny.ASSISTANT}{_SAID}{tiny.END}" for question in _ASKED]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(6):
        for row in rows:
            ids = tokenizer(row, return_tensors="pt", add_special_tokens=False)["input_ids"]
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    loading.save_policy(model.eval(), tokenizer, loading.ServingProfile(temperature=0.0, max_tokens=16), folder)
