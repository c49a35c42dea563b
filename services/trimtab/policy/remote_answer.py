"""One answer that another process generates: token ids in, pieces out, by the same rules of text as the local engine.

Used by `policy.remote` and its dialects.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trimtab.core import completions
from trimtab.policy import converting, engine

if TYPE_CHECKING:
    from trimtab.modeling import decoder, loading

# Which log-probs a server says: those of the policy itself, or those of what it sampled from.
RAW, SAMPLED = "raw", "sampled"


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of an answer, in order. logprobs: of the kind that the server says. top: for each the alternatives the
    server gave, the token itself among them."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]
    finish: completions.FinishReason | None


def both(asked: completions.Sampling, kind: str, said: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Log-probs of the policy itself, and of what was drawn from, as far as they follow from the kind a server says."""
    greedy = not asked.temperature
    unpenalised = not asked.presence_penalty and not asked.frequency_penalty
    same = unpenalised and (asked.temperature, asked.top_p, asked.top_k) == (1.0, 1.0, 0)
    given, drawn = tuple(said), (0.0,) * len(said)  # greedy: the one token has all the probability
    if kind == RAW:
        return given, drawn if greedy else given if same else ()
    return given if same or (greedy and unpenalised) else (), drawn if greedy else given


class Answer:
    """A choice on its way. `finish` is set when it has ended."""

    def __init__(
        self, number: int, sampling: completions.Sampling, front: "loading.Front", logprobs: str, *, stream: bool
    ) -> None:
        from trimtab.modeling import detokenize

        self.finish: completions.FinishReason | None = None
        self._number = number
        self._sampling = sampling
        self._front = front
        self._logprobs = logprobs
        self._streams = stream
        self._text = detokenize.TextStream(front.tokenizer, sampling.stop)
        self._tokens: list[decoder.Token] = []
        self._told = 0  # tokens whose details were sent
        self._unsent = ""

    def take(self, news: Chunk) -> engine.Piece | None:
        """The piece to send on, if there is one; none with the end, which `last` tells."""
        from trimtab.modeling import decoder

        first = not self._tokens
        for token, raw, top in zip(news.token_ids, news.logprobs, news.top, strict=True):
            kept = sorted(top, key=lambda item: -item[1])[: self._sampling.top_logprobs]
            self._tokens.append(decoder.Token(token, raw, 0.0, tuple(kept)))
            if token in self._front.end_tokens:
                self.finish = completions.FinishReason.STOP
            else:
                self._unsent += self._text.push(token)
                self.finish = completions.FinishReason.STOP if self._text.stopped else None
            if self.finish is not None:
                return None
        self.finish = news.finish
        if self.finish is not None or (not (self._streams and self._unsent) and not (first and self._tokens)):
            return None
        return engine.Piece(self._number, self._take_unsent(), len(self._tokens), self._detail())

    def last(self, reason: completions.FinishReason) -> engine.Piece:
        """The piece with the whole choice."""
        if reason is not completions.FinishReason.CANCELLED:
            self._unsent += self._text.finish()
        from trimtab.modeling import decoder

        raw, sampled = both(self._sampling, self._logprobs, [token.raw for token in self._tokens])
        alternatives = tuple(token.top for token in self._tokens) if self._sampling.top_logprobs else ()
        ids = tuple(token.id for token in self._tokens)
        decoded = decoder.Decoded(ids, raw, sampled, self._text.text, reason, alternatives)
        result = converting.response(self._number, decoded, self._front.tokenizer if self._sampling.logprobs else None)
        return engine.Piece(self._number, self._take_unsent(), len(self._tokens), self._detail(), result)

    def _take_unsent(self) -> str:
        shown, self._unsent = self._unsent, ""
        return shown

    def _detail(self) -> completions.Response | None:
        if not (self._sampling.logprobs and self._streams):
            return None
        fresh, self._told = self._tokens[self._told :], len(self._tokens)
        raw, sampled = both(self._sampling, self._logprobs, [token.raw for token in fresh])
        detail = converting.detail(self._number, fresh, self._front.tokenizer)
        return dataclasses.replace(detail, logprobs_raw=raw, logprobs_sampled=sampled)
