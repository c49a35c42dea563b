"""HTTP's long answers: server-sent events, and work that ends when its caller goes away.

Called by `gateway.routes`. What the events say is in `gateway.shapes`.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any, TypeVar

from starlette import types

_Result = TypeVar("_Result")
DONE = b"data: [DONE]\n\n"


class CallerGone(Exception):
    """The client closed the connection: there is nobody to answer."""


def event(body: Mapping[str, Any]) -> bytes:
    """One server-sent event with a JSON object."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def while_connected(receive: types.Receive, work: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of `work`, which is cancelled, with CallerGone, when the client disconnects first.

    For use once the body was read: from then on `receive` says nothing until the client goes.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise CallerGone
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(receive: types.Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream:
    """An ASGI response of server-sent events, written from `source`.

    Both generators are closed whatever ends the response, also the client's leaving; and also when the writing one was
    never begun, which would not close the other.
    """

    def __init__(
        self, events: AsyncGenerator[bytes, None], source: AsyncGenerator[Any, None], headers: Mapping[str, str]
    ) -> None:
        self._events = events
        self._source = source
        fixed = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",  # nginx would collect the events
        }
        self._headers = [(name.encode(), value.encode()) for name, value in (fixed | dict(headers)).items()]

    async def __call__(self, scope: types.Scope, receive: types.Receive, send: types.Send) -> None:
        try:
            await while_connected(receive, self._write(send))
        finally:
            await self._events.aclose()
            await self._source.aclose()

    async def _write(self, send: types.Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        async for data in self._events:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
