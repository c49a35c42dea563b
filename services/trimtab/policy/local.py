"""The local engine: one thread drives a `modeling.decoder.Decoder`; requests come from asyncio and go back there.

Built by `policy.app`, called by `policy.answering` through the port `policy.engine`. The thread loads the policy first
(importing torch takes seconds), so the process answers health checks meanwhile. Nothing of torch is imported before.
"""

import asyncio
import collections
import dataclasses
import threading
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from trimtab.core import completions, errors
from trimtab.obs import metrics
from trimtab.policy import converting, encoding, engine

if TYPE_CHECKING:
    from trimtab.modeling import decoder, loading

NAME = "local"
_IDLE_S = 0.5
_FAILED = "The engine of this policy process has stopped; retry, another process will answer."


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """A policy in memory and the digest of the bytes it was read from."""

    policy: "loading.LoadedPolicy"
    digest: str


class _Choice:
    """One answer on its way through the decoder."""

    def __init__(self, generation: "LocalGeneration", number: int, request: "decoder.DecodeRequest") -> None:
        self.generation = generation
        self.number = number
        self.request = request
        self.unsent: list[decoder.Token] = []


class LocalGeneration:
    """A `engine.Generation`. Made and iterated in the event loop; the decode thread only posts into it."""

    def __init__(self, owner: "LocalEngine", choices: int, logprobs: bool) -> None:
        self.logprobs = logprobs
        self.cancelled = False
        self.loop = asyncio.get_running_loop()
        self._owner = owner
        self._left = choices
        self._pieces: asyncio.Queue[engine.Piece] = asyncio.Queue()

    def put(self, piece: engine.Piece) -> None:
        """Runs in the event loop."""
        self._pieces.put_nowait(piece)

    def cancel(self) -> None:
        self.cancelled = True
        self._owner.wake()

    async def __aiter__(self) -> AsyncIterator[engine.Piece]:
        while self._left:
            piece = await self._pieces.get()
            self._left -= piece.result is not None
            yield piece


class LocalEngine(encoding.Encoding):
    """max_batch: answers decoded together; max_queue: answers that may wait; context: 0, or less than the model's."""

    def __init__(self, load: Callable[[], Loaded], *, max_batch: int, max_queue: int, context: int) -> None:
        super().__init__()
        self._load = load
        self._max_batch = max_batch
        self._capacity = max_batch + max_queue
        self._context = context
        self._waiting: collections.deque[_Choice] = collections.deque()
        self._running: dict[int, _Choice] = {}  # by decoder id; the decode thread's own
        self._open = 0  # choices taken in and not done
        self._ended = False
        self._changed = threading.Condition()

    def generate(
        self, prompt: tuple[int, ...], sampling: completions.Sampling, choices: int, *, stream: bool
    ) -> LocalGeneration:
        generation = LocalGeneration(self, choices, sampling.logprobs)
        wanted = [
            _Choice(generation, number, converting.request(prompt, sampling, number, stream))
            for number in range(choices)
        ]
        with self._changed:
            if self._ended:
                raise errors.ServiceUnavailable(_FAILED)
            if self._open + choices > self._capacity:
                raise errors.Overloaded(
                    f"This policy process generates or holds {self._open} answers and takes at most {self._capacity}; "
                    "retry with back-off."
                )
            self._count(choices)
            self._waiting.extend(wanted)
            self._changed.notify()
        return generation

    def wake(self) -> None:
        """Makes the decode thread look again."""
        with self._changed:
            self._changed.notify()

    def run(self, stop: threading.Event, on_loaded: Callable[[], None]) -> None:
        """The decode thread: loads the policy, then decodes until told to stop. What is unfinished ends cancelled."""
        from trimtab.modeling import decoder, loading

        loaded = self._load()
        policy = loaded.policy
        self._encode = encoding.Encoder(policy.tokenizer, policy.profile)
        context = loading.context_tokens(policy.model)
        self._facts = engine.Facts(
            name=NAME,
            context_tokens=min(context, self._context or context),
            max_choices=min(self._capacity, 128),
            defaults=converting.defaults(policy.profile),
            loaded_digest=loaded.digest,
        )
        driven = decoder.Decoder(policy.model, policy.tokenizer, self._max_batch)
        on_loaded()
        try:
            while not stop.is_set():
                self._turn(driven, policy.tokenizer)
        finally:
            self._end(driven, policy.tokenizer)

    def _turn(self, driven: "decoder.Decoder", tokenizer: Any) -> None:
        with self._changed:
            if not self._running and not self._waiting:
                self._changed.wait(_IDLE_S)
            arrived, self._waiting = list(self._waiting), collections.deque()
        for choice in arrived:
            self._running[driven.submit(choice.request)] = choice
        gone = [number for number, choice in self._running.items() if choice.generation.cancelled]
        news = [self._cancelled(driven, number, tokenizer) for number in gone]
        if driven.busy:
            for event in driven.step():
                choice = self._running[event.request_id]
                choice.unsent.append(event.token)
                if event.delta or event.result is not None or event.tokens == 1:
                    news.append((choice, self._piece(choice, event, tokenizer)))
                if event.result is not None:
                    del self._running[event.request_id]
        self._post(news)

    def _cancelled(self, driven: "decoder.Decoder", number: int, tokenizer: Any) -> tuple[_Choice, engine.Piece]:
        choice = self._running.pop(number)
        partial = driven.cancel(number)
        assert partial is not None  # what is running has not ended
        result = self._result(choice, partial, tokenizer)
        return choice, engine.Piece(choice.number, "", len(partial.token_ids), result=result)

    def _piece(self, choice: _Choice, event: "decoder.DecodeEvent", tokenizer: Any) -> engine.Piece:
        detail = None
        if choice.generation.logprobs and choice.request.stream and (event.delta or event.result is not None):
            detail = converting.detail(choice.number, choice.unsent, tokenizer)
            choice.unsent = []
        result = None if event.result is None else self._result(choice, event.result, tokenizer)
        return engine.Piece(choice.number, event.delta, event.tokens, detail, result)

    @staticmethod
    def _result(choice: _Choice, decoded: "decoder.Decoded", tokenizer: Any) -> completions.Response:
        return converting.response(choice.number, decoded, tokenizer if choice.generation.logprobs else None)

    def _post(self, news: list[tuple[_Choice, engine.Piece]]) -> None:
        """Hands pieces over to their event loops: one call a step, not one a token."""
        done = sum(piece.result is not None for _, piece in news)
        if done:
            with self._changed:
                self._count(-done)
        loops: dict[asyncio.AbstractEventLoop, list[tuple[_Choice, engine.Piece]]] = {}
        for choice, piece in news:
            loops.setdefault(choice.generation.loop, []).append((choice, piece))
        for loop, items in loops.items():
            loop.call_soon_threadsafe(_deliver, items)

    def _end(self, driven: "decoder.Decoder", tokenizer: Any) -> None:
        with self._changed:
            self._ended = True
            never_begun, self._waiting = list(self._waiting), collections.deque()
        for choice in never_begun:
            self._running[driven.submit(choice.request)] = choice
        self._post([self._cancelled(driven, number, tokenizer) for number in list(self._running)])

    def _count(self, choices: int) -> None:
        self._open += choices
        metrics.POLICY_OPEN_CHOICES.set(self._open)


def _deliver(items: list[tuple[_Choice, engine.Piece]]) -> None:
    for choice, piece in items:
        choice.generation.put(piece)
