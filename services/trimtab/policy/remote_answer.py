"""One answer that another process generates: token ids in, pieces out, by the same rules of text as the local engine.

Used by `policy.openai`.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from trimtab.core import completions
from trimtab.policy import converting, engine

if TYPE_CHECKING:
    from trimtab.modeling import decoder, loading

IMPOSSIBLE = -9000.0  # vLLM says -9999 for a token without any probability
_ID = "token_id:"
_REASONS = {"stop": completions.FinishReason.STOP, "length": completions.FinishReason.LENGTH}


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of an answer, in order. top: for each the alternatives the server gave, the token itself among them."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]
    finish: completions.FinishReason | None


def chunk(choice: dict[str, Any]) -> Chunk:
    """From a choice of the completions API. EngineFailed when it does not say exactly which tokens were generated."""
    token_ids, logprobs = choice.get("token_ids"), choice.get("logprobs")
    reason = choice.get("finish_reason")
    if reason is not None and reason not in _REASONS:
        raise engine.EngineFailed(f"The engine ended an answer for the reason {reason!r}; ask again.")
    finish = None if reason is None else _REASONS[reason]
    if not token_ids and not (logprobs or {}).get("tokens") and (finish or not choice.get("text")):
        return Chunk((), (), (), finish)  # the end, or a sign of life
    if token_ids is None or logprobs is None or logprobs["tokens"] != [f"{_ID}{token}" for token in token_ids]:
        raise engine.EngineFailed(
            "The engine does not return the ids of its tokens with a log-prob each; use a vLLM that knows "
            "`return_token_ids` and `return_tokens_as_token_ids`."
        )
    return Chunk(
        tuple(token_ids),
        tuple(logprobs["token_logprobs"]),
        tuple(
            tuple((int(name.removeprefix(_ID)), logprob) for name, logprob in (items or {}).items())
            for items in logprobs["top_logprobs"]
        ),
        finish,
    )


class Answer:
    """A choice on its way. `finish` is set when it has ended."""

    def __init__(self, number: int, sampling: completions.Sampling, front: "loading.Front", *, stream: bool) -> None:
        from trimtab.modeling import detokenize

        self.finish: completions.FinishReason | None = None
        self._number = number
        self._sampling = sampling
        self._front = front
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

        raw = tuple(token.raw for token in self._tokens)
        alternatives = tuple(token.top for token in self._tokens) if self._sampling.top_logprobs else ()
        ids = tuple(token.id for token in self._tokens)
        decoded = decoder.Decoded(ids, raw, self._sampled(raw), self._text.text, reason, alternatives)
        result = converting.response(self._number, decoded, self._front.tokenizer if self._sampling.logprobs else None)
        return engine.Piece(self._number, self._take_unsent(), len(self._tokens), self._detail(), result)

    def _sampled(self, raw: tuple[float, ...]) -> tuple[float, ...]:
        """Log-probs of what was drawn from, where they follow from the raw ones: vLLM reports one kind."""
        asked = self._sampling
        if not asked.temperature:
            return (0.0,) * len(raw)
        untouched = (asked.temperature, asked.top_p, asked.top_k) == (1.0, 1.0, 0)
        return raw if untouched and not asked.presence_penalty and not asked.frequency_penalty else ()

    def _take_unsent(self) -> str:
        shown, self._unsent = self._unsent, ""
        return shown

    def _detail(self) -> completions.Response | None:
        if not (self._sampling.logprobs and self._streams):
            return None
        fresh, self._told = self._tokens[self._told :], len(self._tokens)
        sampled = self._sampled(tuple(token.raw for token in fresh))
        detail = converting.detail(self._number, fresh, self._front.tokenizer)
        return dataclasses.replace(detail, logprobs_sampled=sampled)
