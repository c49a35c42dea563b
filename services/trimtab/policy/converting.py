"""Between the core's words and the decoder's. Called by `policy.local`; imports of torch stay late."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trimtab.core import completions, text

if TYPE_CHECKING:
    from trimtab.modeling import decoder, loading


def defaults(profile: "loading.ServingProfile") -> completions.Sampling:
    """A serving profile as the sampling that holds where a request says nothing."""
    return completions.Sampling(
        temperature=profile.temperature,
        top_p=profile.top_p,
        top_k=profile.top_k,
        max_tokens=profile.max_tokens,
        stop=profile.stop,
        presence_penalty=0.0,
        frequency_penalty=0.0,
    )


def request(
    prompt: tuple[int, ...], sampling: completions.Sampling, choice: int, stream: bool
) -> "decoder.DecodeRequest":
    """What the decoder is asked for the choice of this number. `sampling` is resolved: nothing in it is None."""
    from trimtab.modeling import decoder

    said: dict[str, Any] = {
        name: getattr(sampling, name)
        for name in ("max_tokens", "temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty")
    }
    return decoder.DecodeRequest(
        prompt_token_ids=prompt,
        stop=sampling.stop,
        seed=(sampling.seed or 0) + choice,
        top_logprobs=sampling.top_logprobs,
        stream=stream,
        **said,
    )


def response(choice: int, decoded: "decoder.Decoded", tokenizer: Any) -> completions.Response:
    """A finished choice. tokenizer: None when nobody asked for the tokens' texts."""
    return completions.Response(
        choice=choice,
        text=text.Text(decoded.text),
        token_ids=decoded.token_ids,
        logprobs_raw=decoded.logprobs_raw,
        logprobs_sampled=decoded.logprobs_sampled,
        finish_reason=decoded.finish_reason,
        top_logprobs=tuple(_alternatives(items, tokenizer) for items in decoded.top_logprobs),
        tokens=() if tokenizer is None else tuple(_token_text(tokenizer, token) for token in decoded.token_ids),
    )


def detail(choice: int, tokens: Sequence["decoder.Token"], tokenizer: Any) -> completions.Response:
    """The tokens of one delta, with their log-probs."""
    return completions.Response(
        choice=choice,
        text=text.Text(""),
        token_ids=tuple(token.id for token in tokens),
        logprobs_raw=tuple(token.raw for token in tokens),
        logprobs_sampled=tuple(token.sampled for token in tokens),
        top_logprobs=tuple(_alternatives(token.top, tokenizer) for token in tokens if token.top),
        tokens=tuple(_token_text(tokenizer, token.id) for token in tokens),
    )


def _alternatives(items: Sequence[tuple[int, float]], tokenizer: Any) -> completions.TokenAlternatives:
    return completions.TokenAlternatives(
        tuple(completions.TokenAlternative(token, _token_text(tokenizer, token), raw) for token, raw in items)
    )


def _token_text(tokenizer: Any, token: int) -> str:
    shown: str = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    return shown
