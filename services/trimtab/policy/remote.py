"""The engine that generates in another process: what is the same whichever server that is.

Built by `policy.app`, called by `policy.answering` through the port `policy.engine`. How a server is asked is a
`Dialect`: `policy.openai`, `policy.tgi`. `policy.beside` is the server, `policy.remote_answer` makes text of
its tokens.
"""

import asyncio
import contextlib
import dataclasses
import functools
import pathlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TYPE_CHECKING, ClassVar, Protocol

import httpx

from trimtab.core import completions, errors
from trimtab.obs import metrics
from trimtab.policy import beside, converting, encoding, engine, remote_answer

if TYPE_CHECKING:
    from trimtab.modeling import loading

CONNECT_S = 5.0
SILENCE_S = 300.0  # between two tokens; an answer that waits for room in the engine is silent too
_LOOK_S = 1.0
_WATCH_S = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class Verified:
    """A policy whose bytes were verified: the folder, all of it but the weights, and the digest."""

    folder: pathlib.Path
    front: "loading.Front"
    digest: str
    model_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Proven:
    """A server that provably serves the policy. context_tokens: prompt and answer together, as it was started."""

    context_tokens: int
    started_at: float


class Dialect(Protocol):
    """How one kind of server is asked. logprobs: which kind it says, `remote_answer.RAW` or `SAMPLED`."""

    name: ClassVar[str]
    unsupported: ClassVar[tuple[str, ...]]
    logprobs: ClassVar[str]

    def is_up(self, client: httpx.Client) -> bool:
        """Whether it answers; EngineFailed when what answers is no such server."""
        ...

    def prove(self, client: httpx.Client, verified: Verified) -> Proven:
        """WrongState unless the server provably serves the policy, and answers in the way that is needed."""
        ...

    def started_at(self, client: httpx.Client) -> float:
        """When the process that answers began, seconds since the epoch."""
        ...

    def body(self, verified: Verified, prompt: tuple[int, ...], sampling: completions.Sampling, choice: int) -> object:
        """The request for one choice; InvalidField for what this kind of server cannot do."""
        ...

    def chunks(self, body: object) -> AsyncGenerator[remote_answer.Chunk]:
        """What the server says of one answer. Never asked twice: it may have generated before it failed.

        ServiceUnavailable, Overloaded or InvalidField: nothing was generated. EngineFailed: something may have been.
        """
        ...

    async def close(self) -> None: ...


class RemoteGeneration:
    """A `engine.Generation`. Each choice is a task with a request of its own: closing it frees the slot there."""

    def __init__(self, ended: Callable[["RemoteGeneration"], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.choices = 0
        self._ended = ended
        self._left = 0
        self._tasks: list[asyncio.Task[engine.Piece]] = []
        self._news: asyncio.Queue[engine.Piece | BaseException] = asyncio.Queue()

    def add(self, answer: remote_answer.Answer, chunks: AsyncGenerator[remote_answer.Chunk]) -> None:
        task = asyncio.create_task(self._follow(answer, chunks))
        task.add_done_callback(functools.partial(self._done, answer))
        self._tasks.append(task)
        self.choices += 1
        self._left += 1

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def __aiter__(self) -> AsyncIterator[engine.Piece]:
        last = 0
        while last < self.choices:
            news = await self._news.get()
            if isinstance(news, BaseException):
                self.cancel()
                raise news
            last += news.result is not None
            yield news

    async def _follow(self, answer: remote_answer.Answer, chunks: AsyncGenerator[remote_answer.Chunk]) -> engine.Piece:
        """The last piece; those before are posted as they come."""
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                piece = answer.take(chunk)
                if answer.finish is not None:
                    if chunk.finish is not None:
                        async for _ in chunks:  # to its end, so that the connection serves another answer
                            pass
                    return answer.last(answer.finish)
                if piece is not None:
                    self._news.put_nowait(piece)
        raise engine.EngineFailed("The engine ended an answer without saying why; ask again.")

    def _done(self, answer: remote_answer.Answer, task: asyncio.Task[engine.Piece]) -> None:
        self._left -= 1
        if task.cancelled():
            self._news.put_nowait(answer.last(completions.FinishReason.CANCELLED))
        else:
            self._news.put_nowait(task.exception() or task.result())
        if not self._left:
            self._ended(self)


class RemoteEngine(encoding.Encoding):
    """max_open: answers asked for at the same time; context: 0, or less than the model's and the server's."""

    def __init__(
        self,
        load: Callable[[], Verified],
        server: beside.Found | beside.Started,
        dialect: Dialect,
        *,
        max_open: int,
        context: int,
    ) -> None:
        super().__init__()
        self._load = load
        self._server = server
        self._dialect = dialect
        self._max_open = max_open
        self._context = context
        self._verified: Verified | None = None
        self._generations: set[RemoteGeneration] = set()
        self._ended = False
        self._lock = threading.Lock()

    def generate(
        self, prompt: tuple[int, ...], sampling: completions.Sampling, choices: int, *, stream: bool
    ) -> RemoteGeneration:
        self.facts()
        verified = self._verified
        assert verified is not None  # set before the facts
        bodies = [self._dialect.body(verified, prompt, sampling, number) for number in range(choices)]
        with self._lock:
            if self._ended:
                raise errors.ServiceUnavailable("This policy process is ending; retry, another process will answer.")
            taken = sum(one.choices for one in self._generations)
            if taken + choices > self._max_open:
                raise errors.Overloaded(
                    f"This policy process has {taken} answers under way and takes at most {self._max_open}; "
                    "retry with back-off."
                )
            generation = RemoteGeneration(self._forget)
            self._generations.add(generation)
            for number, body in enumerate(bodies):
                answer = remote_answer.Answer(number, sampling, verified.front, self._dialect.logprobs, stream=stream)
                generation.add(answer, self._dialect.chunks(body))
            metrics.POLICY_OPEN_CHOICES.set(taken + choices)
        return generation

    async def close(self) -> None:
        await self._dialect.close()

    def run(self, stop: threading.Event, on_loaded: Callable[[], None]) -> None:
        """The engine's thread: verifies the policy, waits for the server, then for the end; cancels what is open then.

        WrongState ends the process when the server is not one that provably serves these bytes, or no longer is.
        """
        verified = self._load()
        self._verified = verified
        self._encode = encoding.Encoder(verified.front.tokenizer, verified.front.profile)
        timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_S)
        with (
            self._server.running(verified.folder, verified.model_id),
            httpx.Client(base_url=self._server.url, timeout=timeout) as client,
        ):
            if not self._until_up(client, stop):
                return
            proven = self._dialect.prove(client, verified)
            context = min(verified.front.context_tokens, proven.context_tokens)
            self._facts = engine.Facts(
                name=self._dialect.name,
                context_tokens=min(context, self._context or context),
                max_choices=min(self._max_open, 128),
                defaults=converting.defaults(verified.front.profile),
                loaded_digest=verified.digest,
                unsupported=self._dialect.unsupported,
            )
            on_loaded()
            try:
                self._watch(client, proven, stop)
            finally:
                with self._lock:
                    self._ended = True
                    for generation in self._generations:
                        generation.loop.call_soon_threadsafe(generation.cancel)

    def _until_up(self, client: httpx.Client, stop: threading.Event) -> bool:
        """Waits for the server, which may load for minutes; False when told to stop first."""
        while not stop.is_set():
            self._server.check()
            with contextlib.suppress(httpx.TransportError):
                if self._dialect.is_up(client):
                    return True
            stop.wait(_LOOK_S)
        return False

    def _watch(self, client: httpx.Client, proven: Proven, stop: threading.Event) -> None:
        """Until told to stop. WrongState once another server process answers than the one that was proven."""
        while not stop.wait(_WATCH_S):
            self._server.check()
            try:
                now = self._dialect.started_at(client)
            except httpx.TransportError:
                continue  # away or too busy; it serves nothing unproven meanwhile
            if now != proven.started_at:
                raise errors.WrongState(
                    f"The engine at {self._server.url} was started again since it was verified; "
                    "this process ends, and the next one proves it anew."
                )

    def _forget(self, generation: RemoteGeneration) -> None:
        with self._lock:
            self._generations.discard(generation)
            metrics.POLICY_OPEN_CHOICES.set(sum(one.choices for one in self._generations))


def refused(url: str, status: int, said: str) -> engine.EngineFailed:
    return engine.EngineFailed(f"The engine at {url} answered {status}: {said[:500]}")
