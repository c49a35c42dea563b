"""A batched decoder over public model calls: continuous batch, key-value cache, one generator per request.

Called by `policy.local` (one thread drives `step`) and by the trainer (`decode_all`). Sampling is in
`modeling.sampling`, the cache in `modeling.cache`, text in `modeling.detokenize`.

Waiting requests are prefilled together and take free slots of the running batch. Rows are left padded; masks and
positions come from lengths, never from token ids (in most chat models the pad token is the end-of-sequence token).
Shapes: B slots, T columns, V tokens of the vocabulary.
"""

import collections
import dataclasses
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import cache_utils

from trimtab.core import completions, errors
from trimtab.modeling import cache, detokenize, loading, sampling

# a prefill holds at most this many tokens: bounds its memory and how long running rows wait for it
_PREFILL_TOKENS = 8192
# with a full batch, steps until the slots that became free are filled even if they are few
_ADMIT_EVERY = 8


@dataclasses.dataclass(frozen=True, slots=True)
class DecodeRequest:
    """One answer to generate. `stream`: an event per token, with the text that may be shown."""

    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_logprobs: int = 0
    stream: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Decoded:
    """A finished answer. Lists per token, end-of-sequence token included; `text` ends before a stop string.

    logprobs_raw: under the model's own distribution; logprobs_sampled: under the one drawn from, 0 when greedy.
    top_logprobs: per token the most probable (token, raw log-prob), when asked for.
    """

    token_ids: tuple[int, ...]
    logprobs_raw: tuple[float, ...]
    logprobs_sampled: tuple[float, ...]
    text: str
    finish_reason: completions.FinishReason
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()


class Token(NamedTuple):
    """A generated token with its log-probs, as in `Decoded`; `top` is empty unless asked for."""

    id: int
    raw: float
    sampled: float
    top: tuple[tuple[int, float], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class DecodeEvent:
    """Something happened to a request: text since its last event, and `result` on its last one.

    `tokens`: generated so far; `token`: the newest. A request that does not stream has two events, at its first token
    and at its last.
    """

    request_id: int
    delta: str
    tokens: int
    token: Token
    result: Decoded | None = None


class _Row:
    """A request in the batch."""

    __slots__ = (
        "generator", "id", "params", "raw", "request", "sampled", "stream", "tokens", "top",
    )  # fmt: skip

    def __init__(self, identity: int, request: DecodeRequest, tokenizer: Any) -> None:
        self.id = identity
        self.request = request
        self.params = sampling.SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
        )
        self.generator: random.Random = sampling.generator(request.seed)
        self.stream = detokenize.TextStream(tokenizer, request.stop) if request.stream or request.stop else None
        self.tokens: list[int] = []
        self.raw: list[float] = []
        self.sampled: list[float] = []
        self.top: list[tuple[tuple[int, float], ...]] = []

    def uniform(self) -> float:
        return self.generator.random() if self.params.temperature else 0.0


class Decoder:
    """A continuous batch over one model. Not shared between threads; the model must be in eval mode."""

    def __init__(self, model: Any, tokenizer: Any, max_batch: int = 64) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._max_batch = max_batch
        self._device: torch.device = model.device
        self._end_tokens = loading.end_token_ids(model, tokenizer)
        self._context = loading.context_tokens(model)
        self._waiting: collections.deque[_Row] = collections.deque()
        self._rows: list[_Row | None] = []  # by slot
        self._live = 0
        self._next_id = 0
        self._since_admission = 0
        self._cache = cache.SlotCache()
        self._lengths_B = torch.zeros(0, dtype=torch.long, device=self._device)  # tokens in the cache, 0 in free slots
        self._last_B = torch.zeros(0, dtype=torch.long, device=self._device)  # each slot's newest token
        self._freed: list[int] = []  # slots whose tensors still hold their last request
        self._params: sampling.BatchParams | None = None  # of the slots as they are, made when needed

    @property
    def busy(self) -> bool:
        return self._live > 0 or bool(self._waiting)

    def submit(self, request: DecodeRequest) -> int:
        """Takes a request in and returns its id; PromptTooLong when no token fits after the prompt."""
        if not request.prompt_token_ids:
            raise errors.InvalidField("prompt_token_ids", "is empty", "give at least one token")
        if request.max_tokens < 1:
            raise errors.InvalidField("max_tokens", f"is {request.max_tokens}", "give at least 1")
        if len(request.prompt_token_ids) >= self._context:
            raise errors.PromptTooLong(len(request.prompt_token_ids), self._context)
        self._next_id += 1
        self._waiting.append(_Row(self._next_id, request, self._tokenizer))
        return self._next_id

    def cancel(self, request_id: int) -> Decoded | None:
        """Drops a request and returns what it had generated; None when it had already ended."""
        for position, row in enumerate(self._waiting):
            if row.id == request_id:
                del self._waiting[position]
                return _decoded(row, completions.FinishReason.CANCELLED, self._text(row))
        for slot, running in enumerate(self._rows):
            if running is not None and running.id == request_id:
                self._free(slot)
                return _decoded(running, completions.FinishReason.CANCELLED, self._text(running))
        return None

    @torch.no_grad()
    def step(self) -> list[DecodeEvent]:
        """Takes in waiting requests if there is room, then generates one token for every row."""
        events = self._admit() if self._should_admit() else []
        if self._live:
            events += self._advance()
        return events

    def _should_admit(self) -> bool:
        free = self._max_batch - self._live
        self._since_admission += 1
        if not self._waiting or free <= 0:
            return False
        enough = min(len(self._waiting), max(1, self._max_batch // 8))
        return free >= enough or self._since_admission >= _ADMIT_EVERY

    def _admit(self) -> list[DecodeEvent]:
        self._since_admission = 0
        rows = self._next_rows()
        # identical prompts (several choices of one request) are prefilled once
        prompts = {row.request.prompt_token_ids: None for row in rows}
        number = {prompt: position for position, prompt in enumerate(prompts)}
        filled, logits_P_V, width = self._prefill(list(prompts))
        sources = [number[row.request.prompt_token_ids] for row in rows]
        slots = self._take_slots(rows)
        self._cache.place(filled, sources, slots, width, len(self._rows))
        index = torch.tensor(slots, device=self._device)
        self._lengths_B[index] = torch.tensor([len(row.request.prompt_token_ids) for row in rows], device=self._device)
        params = sampling.BatchParams.of([row.params for row in rows], self._device)
        draws = self._draw(logits_P_V[torch.tensor(sources, device=self._device)], rows, params)
        self._last_B[index] = draws.tokens_B
        return self._take_in(rows, slots, draws)

    def _next_rows(self) -> list[_Row]:
        rows: list[_Row] = []
        longest = 0
        while self._waiting and len(rows) < self._max_batch - self._live:
            longest = max(longest, len(self._waiting[0].request.prompt_token_ids))
            if rows and longest * (len(rows) + 1) > _PREFILL_TOKENS:
                break
            rows.append(self._waiting.popleft())
        return rows

    def _prefill(self, prompts: Sequence[tuple[int, ...]]) -> tuple[cache_utils.DynamicCache, torch.Tensor, int]:
        """The prompts' cache, (P, V) logits after their last tokens, and the columns they take, left padded."""
        width = max(len(prompt) for prompt in prompts)
        padded_P_T = torch.tensor(
            [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=self._device
        )
        pad_P = torch.tensor([width - len(prompt) for prompt in prompts], device=self._device)
        positions_P_T = torch.arange(width, device=self._device) - pad_P[:, None]
        filled = cache_utils.DynamicCache()
        output = self._model(
            input_ids=padded_P_T,
            attention_mask=(positions_P_T >= 0).long(),
            position_ids=positions_P_T.clamp_min(0),
            past_key_values=filled,
            use_cache=True,
            logits_to_keep=1,
        )
        return filled, output.logits[:, -1].float(), width

    def _take_slots(self, rows: Sequence[_Row]) -> list[int]:
        """Slots for new rows: free ones first, then new ones at the end."""
        slots = [slot for slot, row in enumerate(self._rows) if row is None][: len(rows)]
        more = len(rows) - len(slots)
        slots += range(len(self._rows), len(self._rows) + more)
        self._rows += [None] * more
        if more:
            self._lengths_B = torch.cat([self._lengths_B, self._lengths_B.new_zeros(more)])
            self._last_B = torch.cat([self._last_B, self._last_B.new_zeros(more)])
        for slot, row in zip(slots, rows, strict=True):
            self._rows[slot] = row
        self._live += len(rows)
        self._params = None
        self._freed = [slot for slot in self._freed if self._rows[slot] is None]
        return slots

    def _advance(self) -> list[DecodeEvent]:
        self._tidy()
        longest = int(self._lengths_B.max())
        self._cache.make_room(self._cache.end - longest)
        columns_T = torch.arange(-longest, 1, device=self._device)
        output = self._model(
            input_ids=self._last_B[:, None],
            attention_mask=(columns_T >= -self._lengths_B[:, None]).long(),
            position_ids=self._lengths_B[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache.advance()
        self._lengths_B = self._lengths_B + 1
        if self._params is None:
            idle = sampling.SamplingParams(temperature=0.0)
            self._params = sampling.BatchParams.of(
                [idle if row is None else row.params for row in self._rows], self._device
            )
        draws = self._draw(output.logits[:, -1].float(), self._rows, self._params)
        self._last_B = draws.tokens_B
        return self._take_in(self._rows, range(len(self._rows)), draws)

    def _tidy(self) -> None:
        """Free slots stop counting; when many are free and nobody waits for them, they go."""
        if len(self._rows) - self._live > len(self._rows) // 4 and not self._waiting:
            kept = [slot for slot, row in enumerate(self._rows) if row is not None]
            index = torch.tensor(kept, device=self._device)
            self._cache.keep(kept)
            self._rows = [self._rows[slot] for slot in kept]
            self._lengths_B, self._last_B = self._lengths_B[index], self._last_B[index]
            self._params = None
            self._freed = []
        if self._freed:
            self._lengths_B[torch.tensor(self._freed, device=self._device)] = 0

    def _draw(
        self, logits_B_V: torch.Tensor, rows: Sequence[_Row | None], params: sampling.BatchParams
    ) -> sampling.Draws:
        shaped_B_V = logits_B_V
        for position, row in enumerate(rows):
            if row is None:
                continue
            if row.params.penalised:
                if shaped_B_V is logits_B_V:
                    shaped_B_V = logits_B_V.clone()
                shaped_B_V[position] = sampling.penalise(logits_B_V[position], row.tokens, row.params)
            if row.request.top_logprobs:
                top = logits_B_V[position].log_softmax(-1).topk(row.request.top_logprobs)
                row.top.append(tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)))
        uniforms = [0.0 if row is None else row.uniform() for row in rows]
        return sampling.draw(logits_B_V, shaped_B_V, params, uniforms)

    def _take_in(self, rows: Sequence[_Row | None], slots: Sequence[int], draws: sampling.Draws) -> list[DecodeEvent]:
        """Adds a token to each row; frees the slots of those that ended."""
        events: list[DecodeEvent] = []
        drawn = zip(rows, slots, draws.tokens_B.tolist(), draws.raw_B.tolist(), draws.sampled_B.tolist(), strict=True)
        ended: list[int] = []
        for row, slot, token, raw, sampled in drawn:
            if row is None:
                continue
            row.tokens.append(token)
            row.raw.append(raw)
            row.sampled.append(sampled)
            delta = ""
            reason = completions.FinishReason.STOP if token in self._end_tokens else None
            if reason is None and row.stream is not None:
                delta = row.stream.push(token)
                reason = completions.FinishReason.STOP if row.stream.stopped else None
            if reason is None and len(row.tokens) >= self._limit(row):
                reason = completions.FinishReason.LENGTH
            result = None
            if reason is not None:
                delta += row.stream.finish() if row.stream is not None else ""
                result = _decoded(row, reason, self._text(row))
                ended.append(slot)
            if result is not None or row.request.stream or len(row.tokens) == 1:
                newest = Token(token, raw, sampled, row.top[-1] if row.top else ())
                events.append(DecodeEvent(row.id, delta, len(row.tokens), newest, result))
        for slot in ended:
            self._free(slot)
        return events

    def _limit(self, row: _Row) -> int:
        return min(row.request.max_tokens, self._context - len(row.request.prompt_token_ids))

    def _free(self, slot: int) -> None:
        self._rows[slot] = None
        self._live -= 1
        self._freed.append(slot)
        if not self._live:
            self._rows, self._freed, self._params = [], [], None
            self._cache = cache.SlotCache()
            self._lengths_B, self._last_B = self._lengths_B[:0], self._last_B[:0]

    def _text(self, row: _Row) -> str:
        if row.stream is not None:
            return row.stream.text
        tokens = row.tokens
        return detokenize.decode(self._tokenizer, tokens[:-1] if tokens and tokens[-1] in self._end_tokens else tokens)


def _decoded(row: _Row, reason: completions.FinishReason, text: str) -> Decoded:
    return Decoded(tuple(row.tokens), tuple(row.raw), tuple(row.sampled), text, reason, tuple(row.top))


def decode_all(model: Any, tokenizer: Any, requests: Sequence[DecodeRequest], max_batch: int = 64) -> list[Decoded]:
    """Answers to all requests, in their order. The model decodes in eval mode and is left in the mode it was in."""
    training = model.training
    model.eval()
    try:
        decoder = Decoder(model, tokenizer, max_batch)
        order = [decoder.submit(request) for request in requests]
        done: dict[int, Decoded] = {}
        while decoder.busy:
            done.update({event.request_id: event.result for event in decoder.step() if event.result is not None})
    finally:
        model.train(training)
    return [done[identity] for identity in order]
