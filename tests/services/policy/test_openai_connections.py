"""How the engine `openai` holds its connections, over a small server that speaks as vLLM does; vLLM itself is in
`tests/engines`."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence

import pytest
from tests import timing

from trimtab.core import completions, errors, text
from trimtab.policy import engine, openai, remote, remote_answer

Finish = completions.FinishReason


class Server:
    """says: the finish reason after each token; None for ever where it ends without one. gone: set when a
    reader went away."""

    def __init__(self, says: Sequence[str | None]) -> None:
        self.connections, self.gone = 0, asyncio.Event()
        self._says = says

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
                await reader.readexactly(next(int(one[15:]) for one in head if one.startswith(b"content-length:")))
                try:
                    await self._answer(writer)
                except ConnectionError:
                    self.gone.set()
                    return
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        said = [*self._says]
        while said or self._says[-1] is None:
            finish = said.pop(0) if said else None
            await self._event(writer, json.dumps({"choices": [choice(finish)]}))
        await self._event(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _event(self, writer: asyncio.StreamWriter, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        writer.write(b"%x\r\n%s\r\n" % (len(event), event))
        await writer.drain()
        await asyncio.sleep(0.01)


def choice(finish: str | None) -> dict[str, object]:
    logprobs = {"tokens": ["token_id:5"], "token_logprobs": [-1.0], "top_logprobs": [{}]}
    return {"index": 0, "text": "x", "token_ids": [5], "finish_reason": finish, "logprobs": logprobs}


class Stops:
    """A `remote_answer.Answer` that ends at the server's word, or after so many tokens."""

    def __init__(self, after: int) -> None:
        self.finish: Finish | None = None
        self._left = after

    def take(self, chunk: remote_answer.Chunk) -> None:
        self._left -= 1
        self.finish = chunk.finish or (Finish.STOP if not self._left else None)

    def last(self, reason: Finish) -> engine.Piece:
        return engine.Piece(0, "", 1, None, completions.Response(0, text.Text(""), finish_reason=reason))


@contextlib.asynccontextmanager
async def asked(server: Server) -> AsyncIterator[openai.OpenAI]:
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    made = openai.OpenAI(f"http://127.0.0.1:{port}", max_open=4)
    try:
        yield made
    finally:
        await made.close()
        listening.close()


async def finish_of(made: openai.OpenAI, after: int = 1000) -> Finish:
    generation = remote.RemoteGeneration(lambda _: None)
    generation.add(Stops(after), made.chunks({}))  # type: ignore[arg-type]
    async with asyncio.timeout(timing.PATIENCE_S):
        [piece] = [piece async for piece in generation]
    assert piece.result is not None
    return piece.result.finish_reason


async def test_answers_one_after_the_other_share_a_connection() -> None:
    server = Server([None, "length"])
    async with asked(server) as made:
        assert [await finish_of(made) for _ in range(5)] == [Finish.LENGTH] * 5
    assert server.connections == 1


async def test_an_answer_that_ended_here_is_ended_there_at_once() -> None:
    server = Server([None, None])
    async with asked(server) as made:
        assert await finish_of(made, after=2) is Finish.STOP
        await asyncio.wait_for(server.gone.wait(), timing.PATIENCE_S)


async def test_a_server_that_breaks_off_is_a_failure_in_a_sentence() -> None:
    server = Server([None, "abort"])
    async with asked(server) as made:
        with pytest.raises(engine.EngineFailed, match="ended an answer for the reason 'abort'"):
            await finish_of(made)


async def test_a_server_that_is_away_is_asked_for_by_another_process() -> None:
    made = openai.OpenAI("http://127.0.0.1:1", max_open=4)
    with pytest.raises(errors.ServiceUnavailable, match=r"http://127\.0\.0\.1:1 is away .*; retry"):
        await finish_of(made)
    await made.close()
