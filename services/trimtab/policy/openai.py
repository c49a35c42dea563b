"""The engine `openai`: a vLLM beside this process generates, over its completions API.

Built by `policy.app`, called by `policy.answering` through the port `policy.engine`. Prompts go out as token ids of the
policy's own template; answers come back as token ids and are turned into text here (`policy.remote_answer`), so both
mean the same as with the local engine. `policy.proof` says which server is trusted.
"""

import asyncio
import contextlib
import dataclasses
import functools
import json
import pathlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import httpx

from trimtab.core import completions, errors
from trimtab.obs import metrics
from trimtab.policy import beside, converting, encoding, engine, proof, remote_answer

if TYPE_CHECKING:
    from trimtab.modeling import loading

NAME = "openai"
_CONNECT_S = 5.0
_SILENCE_S = 300.0  # between two tokens; an answer that waits for room in the engine is silent too
_KEPT_S = 2.0  # an idle connection; vLLM closes its own after 5
_LOOK_S = 1.0
_WATCH_S = 5.0
_LOWEST_TEMPERATURE = 0.01  # vLLM takes smaller ones for this
_MAX_SEED = 2**63 - 1


@dataclasses.dataclass(frozen=True, slots=True)
class Verified:
    """A policy whose bytes were verified: the folder, all of it but the weights, and the digest."""

    folder: pathlib.Path
    front: "loading.Front"
    digest: str
    model_id: str


class OpenAIGeneration:
    """A `engine.Generation`. Each choice is a task with a request of its own: closing it frees the slot there."""

    def __init__(self, ended: Callable[["OpenAIGeneration"], None]) -> None:
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


class OpenAIEngine(encoding.Encoding):
    """max_open: answers asked for at the same time; context: 0, or less than the model's and the server's."""

    def __init__(
        self, load: Callable[[], Verified], server: beside.Found | beside.Started, *, max_open: int, context: int
    ) -> None:
        super().__init__()
        self._load = load
        self._server = server
        self._url = server.url
        self._max_open = max_open
        self._context = context
        self._verified: Verified | None = None
        self._client: httpx.AsyncClient | None = None
        self._generations: set[OpenAIGeneration] = set()
        self._ended = False
        self._lock = threading.Lock()

    def generate(
        self, prompt: tuple[int, ...], sampling: completions.Sampling, choices: int, *, stream: bool
    ) -> OpenAIGeneration:
        self.facts()
        assert self._verified is not None
        if sampling.temperature and sampling.temperature < _LOWEST_TEMPERATURE:
            problem = (
                f"is {sampling.temperature:g}, and the engine {NAME!r} has none between 0 and {_LOWEST_TEMPERATURE}"
            )
            raise errors.InvalidField("temperature", problem, f"send 0 or at least {_LOWEST_TEMPERATURE}")
        with self._lock:
            if self._ended:
                raise errors.ServiceUnavailable("This policy process is ending; retry, another process will answer.")
            taken = sum(one.choices for one in self._generations)
            if taken + choices > self._max_open:
                raise errors.Overloaded(
                    f"This policy process has {taken} answers under way and takes at most {self._max_open}; "
                    "retry with back-off."
                )
            generation = OpenAIGeneration(self._forget)
            self._generations.add(generation)
            for number in range(choices):
                answer = remote_answer.Answer(number, sampling, self._verified.front, stream=stream)
                generation.add(answer, self._chunks(self._body(prompt, sampling, number)))
            metrics.POLICY_OPEN_CHOICES.set(taken + choices)
        return generation

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    def run(self, stop: threading.Event, on_loaded: Callable[[], None]) -> None:
        """The engine's thread: verifies the policy, waits for the server, then for the end; cancels what is open then.

        WrongState ends the process when the server is not one that provably serves these bytes, or no longer is.
        """
        verified = self._load()
        self._verified = verified
        self._encode = encoding.Encoder(verified.front.tokenizer, verified.front.profile)
        timeout = httpx.Timeout(_SILENCE_S, connect=_CONNECT_S)
        with (
            self._server.running(verified.folder, verified.model_id),
            httpx.Client(base_url=self._url, timeout=timeout) as client,
        ):
            cards = self._when_up(client, stop)
            if cards is None:
                return
            started_at = self._prove(client, cards, verified)
            on_loaded()
            try:
                self._watch(client, started_at, stop)
            finally:
                with self._lock:
                    self._ended = True
                    for generation in self._generations:
                        generation.loop.call_soon_threadsafe(generation.cancel)

    def _prove(self, client: httpx.Client, cards: list[dict[str, Any]], verified: Verified) -> float:
        """The start of the server's process, which provably serves the policy; from here on there are facts."""
        card = next((one for one in cards if one["id"] == verified.model_id), None)
        started_at = _started_at(client)
        served = None if card is None else proof.Served(str(card.get("root")), started_at)
        proof.check(self._url, served, verified.folder, verified.model_id)
        assert card is not None  # else it was refused
        _try_out(client, self._body((min(verified.front.end_tokens),), _TRIAL, 0) | {"stream": False})
        context = min(verified.front.context_tokens, int(card.get("max_model_len") or verified.front.context_tokens))
        self._facts = engine.Facts(
            name=NAME,
            context_tokens=min(context, self._context or context),
            max_choices=min(self._max_open, 128),
            defaults=converting.defaults(verified.front.profile),
            loaded_digest=verified.digest,
        )
        return started_at

    def _when_up(self, client: httpx.Client, stop: threading.Event) -> list[dict[str, Any]] | None:
        """The models that the server names, once it is there; None when told to stop first. It may load for minutes."""
        while not stop.is_set():
            self._server.check()
            try:
                response = client.get("/v1/models", timeout=_CONNECT_S)
            except httpx.TransportError:
                stop.wait(_LOOK_S)
                continue
            if response.status_code != httpx.codes.OK:
                raise _refused(self._url, response.status_code, response.text)
            cards: list[dict[str, Any]] = response.json()["data"]
            return cards
        return None

    def _watch(self, client: httpx.Client, started_at: float, stop: threading.Event) -> None:
        """Until told to stop. WrongState once another server process answers than the one that was proven."""
        while not stop.wait(_WATCH_S):
            self._server.check()
            try:
                now = _started_at(client)
            except httpx.TransportError:
                continue  # away or too busy; it serves nothing unproven meanwhile
            if now != started_at:
                raise errors.WrongState(
                    f"The engine at {self._url} was started again since it was verified; "
                    "this process ends, and the next one proves it anew."
                )

    def _forget(self, generation: OpenAIGeneration) -> None:
        with self._lock:
            self._generations.discard(generation)
            metrics.POLICY_OPEN_CHOICES.set(sum(one.choices for one in self._generations))

    def _body(self, prompt: tuple[int, ...], sampling: completions.Sampling, choice: int) -> dict[str, Any]:
        """Everything is said: what is left out, vLLM takes from the model's generation_config.json."""
        assert self._verified is not None
        names = ("max_tokens", "temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty")
        return {name: getattr(sampling, name) for name in names} | {
            "model": self._verified.model_id,
            "prompt": prompt,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": ((sampling.seed or 0) + choice) & _MAX_SEED,
            "stop": sampling.stop,
            "stop_token_ids": sorted(self._verified.front.end_tokens),
            "logprobs": sampling.top_logprobs,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "stream": True,
        }

    async def _chunks(self, body: dict[str, Any]) -> AsyncGenerator[remote_answer.Chunk]:
        """What the server says of one answer. Never asked twice: it may have generated before it failed."""
        if self._client is None:
            limits = httpx.Limits(
                max_connections=None, max_keepalive_connections=self._max_open, keepalive_expiry=_KEPT_S
            )
            timeout = httpx.Timeout(_SILENCE_S, connect=_CONNECT_S)
            self._client = httpx.AsyncClient(base_url=self._url, timeout=timeout, limits=limits)
        try:
            async with self._client.stream("POST", "/v1/completions", json=body) as response:
                if response.status_code != httpx.codes.OK:
                    raise _refused(self._url, response.status_code, (await response.aread()).decode(errors="replace"))
                async for line in response.aiter_lines():
                    if not line.startswith("data: ") or line == "data: [DONE]":
                        continue
                    said = json.loads(line.removeprefix("data: "))
                    if "error" in said:
                        raise _refused(self._url, response.status_code, json.dumps(said["error"]))
                    for choice in said["choices"]:
                        yield remote_answer.chunk(choice)
        except (httpx.ConnectError, httpx.ConnectTimeout) as problem:
            raise errors.ServiceUnavailable(f"The engine at {self._url} is away ({problem}); retry.") from problem
        except (httpx.HTTPError, ValueError) as problem:
            raise engine.EngineFailed(
                f"The engine at {self._url} failed in an answer ({type(problem).__name__}: {problem}); ask again."
            ) from problem


_TRIAL = completions.Sampling(1.0, 1.0, 1, 1, seed=0, presence_penalty=0.0, frequency_penalty=0.0, top_logprobs=2)


def _refused(url: str, status: int, said: str) -> engine.EngineFailed:
    return engine.EngineFailed(f"The engine at {url} answered {status}: {said[:500]}")


def _started_at(client: httpx.Client) -> float:
    """When the server's process began, by its own metrics; the end of time would pass, so without a word it is 0."""
    for line in client.get("/metrics").text.splitlines():
        if line.startswith("process_start_time_seconds "):
            return float(line.split()[1])
    return 0.0


def _try_out(client: httpx.Client, body: dict[str, Any]) -> None:
    """Refuses a server that answers without token ids, or whose log-probs are not those of the policy itself."""
    response = client.post("/v1/completions", json=body)
    if response.status_code != httpx.codes.OK:
        raise _refused(str(client.base_url), response.status_code, response.text)
    tried = remote_answer.chunk(response.json()["choices"][0])
    # top_k is 1: of the distribution drawn from, every other token has no probability
    given = [logprob for items in tried.top for _, logprob in items]
    if not given or min(given) < remote_answer.IMPOSSIBLE:
        raise errors.WrongState(
            f"The engine at {client.base_url} reports no log-probs, or those of what it samples from; start it with "
            "--logprobs-mode=raw_logprobs."
        )
