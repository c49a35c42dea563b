"""Simulated users: they talk to the platform's public HTTP API as any app would, and vote by their taste.

Each visit is a session of its own. Nothing but the API passes between them and the platform.
"""

import asyncio
import contextlib
import dataclasses
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import httpx

from trimtab.cli.demo import taste, world
from trimtab.core import errors

# Share of visits that compare two answers where that is asked for; the others vote on one.
COMPARING = 0.6
# Share of wrong answers that users correct where they can.
CORRECTING = 0.6
# How long one request is tried, and what is said while something restarts.
PATIENCE_S = 30.0
_BUSY = frozenset({429, 502, 503, 504})

_Item = TypeVar("_Item")


@dataclasses.dataclass(slots=True)
class Books:
    """What the users did, by their own count.

    taken: ids of the votes that were acknowledged; repeated: requests sent again to a platform busy or away.
    """

    sent: int = 0
    repeated: int = 0
    taken: set[str] = dataclasses.field(default_factory=set)

    @property
    def acknowledged(self) -> int:
        return len(self.taken)


class Users:
    """Users of one line. base_url: the gateway's; concurrency: how many talk at the same time."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        line: str,
        *,
        seed: int,
        concurrency: int = 24,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.books = Books()
        self._line = line
        self._seed = seed
        self._visits = 0
        self._concurrency = concurrency
        self._patience_s = patience_s
        self._questions = world.questions(world.KNOWN_WORDINGS + world.NEW_WORDINGS)
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers={"authorization": f"Bearer {api_key}"},
            timeout=30.0,
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def visit_while(
        self,
        wanted: Callable[[], bool],
        *,
        comparing: float = 0.0,
        correcting: float = 0.0,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        """Visits, for as long as `wanted` says so; each votes on one answer or compares two.

        comparing: share of the visits that do. correcting: share of wrong answers that are corrected as well.
        """

        async def worker(_: int) -> None:
            while wanted():
                self._visits += 1
                rng = random.Random(f"visit {self._seed} {self._visits}")
                await (self._compare(rng, correcting) if rng.random() < comparing else self._vote(rng, correcting))
                progress()

        await self._at_once(worker, range(self._concurrency))

    async def can_ask(self, model: str) -> bool:
        """Whether the gateway answers and has heard of a policy."""
        with contextlib.suppress(httpx.TransportError):
            return (await self._http.get(f"/v1/models/{model}")).status_code == httpx.codes.OK
        return False

    async def judge(self, questions: Sequence[str], model: str, samples: int) -> list[list[taste.Judgement]]:
        """How `samples` answers to each question look to the users, question by question. Nobody votes."""
        judgements: dict[str, list[taste.Judgement]] = {}

        async def ask(question: str) -> None:
            reply = await self._chat(question, session=uuid.uuid4().hex, n=samples, model=model)
            judgements[question] = [taste.judge(question, answer) for answer in _answers(reply)]

        await self._at_once(ask, questions)
        return [judgements[question] for question in questions]

    async def _at_once(self, act: Callable[[_Item], Awaitable[None]], items: Iterable[_Item]) -> None:
        waiting = iter(items)

        async def worker() -> None:
            for item in waiting:
                await act(item)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(worker())

    async def _vote(self, rng: random.Random, correcting: float) -> None:
        question = rng.choice(self._questions)
        reply = await self._chat(question, session=f"{rng.getrandbits(64):x}")
        (answer,) = _answers(reply)
        up = taste.thumb(rng, taste.judge(question, answer))
        await self._send({"completion_id": reply["id"], "kind": "thumb", "value": "up" if up else "down"})
        await self._correct(rng, correcting, question, answer, {"completion_id": reply["id"]})

    async def _compare(self, rng: random.Random, correcting: float) -> None:
        question = rng.choice(self._questions)
        reply = await self._chat(question, session=f"{rng.getrandbits(64):x}", n=2)
        answers = _answers(reply)
        first, second = (taste.judge(question, answer) for answer in answers)
        if answers[0] == answers[1]:
            return
        order = (0, 1) if taste.prefers_first(rng, first, second) else (1, 0)
        preferred, rejected = ({"completion_id": reply["id"], "choice": choice} for choice in order)
        await self._send({"kind": "comparison", "preferred": preferred, "rejected": rejected})
        await self._correct(rng, correcting, question, answers[order[0]], preferred)

    async def _correct(
        self, rng: random.Random, correcting: float, question: str, answer: str, which: dict[str, Any]
    ) -> None:
        corrected = taste.corrected(question, answer)
        if corrected and rng.random() < correcting:
            await self._send({**which, "kind": "edit", "corrected": corrected})

    async def _chat(self, question: str, *, session: str, n: int = 1, model: str = "") -> dict[str, Any]:
        body = {"model": model or self._line, "messages": [{"role": "user", "content": question}], "n": n}
        return await self._post("/v1/chat/completions", body, {"x-trimtab-session": session})

    async def _send(self, body: dict[str, Any]) -> None:
        vote = uuid.uuid4().hex
        self.books.sent += 1
        await self._post("/v1/feedback", body | {"id": vote, "surface": "chat"}, {})
        self.books.taken.add(vote)

    async def _post(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        """Posts, again with the same body when the platform is busy or restarting: the feedback id makes it safe."""
        deadline = time.monotonic() + self._patience_s
        pause_s = 0.2
        while True:
            try:
                reply = await self._http.post(path, json=body, headers=headers)
                if reply.status_code == httpx.codes.OK:
                    return dict(reply.json())
                problem, again = f"{reply.status_code} {reply.text}", reply.status_code in _BUSY
            except httpx.TransportError as error:
                problem, again = repr(error), True
            if not again or time.monotonic() > deadline:
                raise errors.ServiceUnavailable(f"POST {path} was not answered: {problem}")
            self.books.repeated += 1
            await asyncio.sleep(pause_s)
            pause_s = min(2.0, 2 * pause_s)


def _answers(reply: dict[str, Any]) -> list[str]:
    return [choice["message"]["content"] or "" for choice in reply["choices"]]
