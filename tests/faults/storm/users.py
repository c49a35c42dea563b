"""Users who vote until they are told that their vote was taken: each vote keeps its id however often it is sent."""

import asyncio
import dataclasses
import random
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx
from tests.faults.storm import world

_AT_ONCE = 6
# Between two visits, and before a request is sent again.
_PAUSE_S = 0.7
# What a client is told while something restarts; everything else would be a fault.
_AGAIN = frozenset({429, 502, 503, 504})


class Refused(Exception):
    """The platform said something that no restart explains."""


@dataclasses.dataclass(slots=True)
class Acknowledged:
    """Ids of the votes that were taken, and how often a request had to be sent again."""

    votes: set[str] = dataclasses.field(default_factory=set)
    sent_again: int = 0


class Users:
    """`patience_s`: how long one request is tried."""

    def __init__(self, base_url: str, api_key: str, seed: int, patience_s: float) -> None:
        self.acknowledged = Acknowledged()
        self._rng = random.Random(f"users {seed}")
        self._patience_s = patience_s
        self._http = httpx.AsyncClient(
            base_url=base_url, headers={"authorization": f"Bearer {api_key}"}, timeout=httpx.Timeout(20.0)
        )

    async def vote_while(self, wanted: Callable[[], bool]) -> None:
        """Several at once, each a new user with a session of its own, for as long as `wanted` says so."""

        async def worker() -> None:
            while wanted():
                await self._visit(random.Random(self._rng.getrandbits(64)))
                await asyncio.sleep(_PAUSE_S)

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(worker())

    async def close(self) -> None:
        await self._http.aclose()

    async def _visit(self, rng: random.Random) -> None:
        asked = world.QUESTION.format(rng.choice(world.THINGS))
        body = {"model": world.LINE, "messages": [{"role": "user", "content": asked}], "n": 2}
        reply = await self._post("/v1/chat/completions", body, {"x-trimtab-session": f"{rng.getrandbits(64):x}"})
        answers = [choice["message"]["content"] or "" for choice in reply["choices"]]
        liked = [world.likes(rng, answer) for answer in answers]
        vote: dict[str, Any] = {"completion_id": reply["id"], "kind": "thumb", "value": "up" if liked[0] else "down"}
        if answers[0] != answers[1] and rng.random() < 0.5:
            best = 0 if liked[0] >= liked[1] else 1
            sides = {"preferred": {"choice": best}, "rejected": {"choice": 1 - best}}
            vote = {"completion_id": reply["id"], "kind": "comparison", **sides}
        identity = uuid.UUID(int=rng.getrandbits(128)).hex
        await self._post("/v1/feedback", {**vote, "id": identity, "surface": "storm"}, {})
        self.acknowledged.votes.add(identity)

    async def _post(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        deadline = time.monotonic() + self._patience_s
        while True:
            said = ""
            try:
                reply = await self._http.post(path, json=body, headers=headers)
                if reply.status_code == httpx.codes.OK:
                    return dict(reply.json())
                said = f"{reply.status_code} {reply.text}"
                if reply.status_code not in _AGAIN:
                    raise Refused(f"POST {path} {body}: {said}")
            except httpx.TransportError as problem:
                said = repr(problem)
            if time.monotonic() > deadline:
                raise Refused(f"POST {path} was not answered within {self._patience_s:.0f} s: {said}")
            self.acknowledged.sent_again += 1
            await asyncio.sleep(_PAUSE_S)
