"""From logits to tokens: penalties, temperature, top-k, top-p and the draw; every row has settings of its own.

Called by `modeling.decoder` at every step. One uniform number decides each draw (inverse CDF over token ids in their
natural order), so a row's tokens depend on its own logits, settings and generator only, never on its neighbours.
Shapes: B rows, V tokens of the vocabulary.
"""

import dataclasses
import random
from collections.abc import Sequence

import torch

# top-k and top-p look at this many of the largest logits first, at the whole vocabulary only where that is too few
_HEAD = 128


@dataclasses.dataclass(frozen=True, slots=True)
class SamplingParams:
    """temperature 0 is greedy, top_k 0 and top_p 1 are off; penalties as OpenAI defines them, on generated tokens."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @property
    def penalised(self) -> bool:
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Draws:
    """Per row: the token, its log-prob under the model's own distribution, and under the one it was drawn from."""

    tokens_B: torch.Tensor
    raw_B: torch.Tensor
    sampled_B: torch.Tensor


@dataclasses.dataclass(slots=True)
class BatchParams:
    """The settings of a batch as tensors, made once for as long as its rows stay the same."""

    temperature_B: torch.Tensor
    top_p_B: torch.Tensor
    top_k_B: torch.Tensor
    greedy_B: torch.Tensor
    any_greedy: bool
    all_greedy: bool
    any_scaled: bool
    cut_rows: torch.Tensor | None
    all_cut: bool

    @classmethod
    def of(cls, rows: Sequence[SamplingParams], device: torch.device) -> "BatchParams":
        greedy = [row.temperature == 0.0 for row in rows]
        cut = [
            position for position, row in enumerate(rows) if not greedy[position] and (row.top_k > 0 or row.top_p < 1.0)
        ]
        return cls(
            temperature_B=torch.tensor([row.temperature or 1.0 for row in rows], device=device),
            top_p_B=torch.tensor([row.top_p for row in rows], device=device),
            top_k_B=torch.tensor([row.top_k for row in rows], device=device),
            greedy_B=torch.tensor(greedy, device=device),
            any_greedy=any(greedy),
            all_greedy=all(greedy),
            any_scaled=any(row.temperature not in (0.0, 1.0) for row in rows),
            cut_rows=torch.tensor(cut, device=device) if cut else None,
            all_cut=len(cut) == len(rows),
        )


def generator(seed: int) -> random.Random:
    """A request's own generator. Negative seeds are seeds of their own (`random.Random` would drop the sign)."""
    return random.Random(seed & 0xFFFF_FFFF_FFFF_FFFF)


def penalise(logits_V: torch.Tensor, generated: Sequence[int], params: SamplingParams) -> torch.Tensor:
    """logits - count * frequency_penalty - (count > 0) * presence_penalty, counting generated tokens (OpenAI)."""
    if not generated:
        return logits_V
    counts_V = torch.bincount(torch.tensor(generated, device=logits_V.device), minlength=logits_V.shape[-1])
    return logits_V - counts_V * params.frequency_penalty - (counts_V > 0) * params.presence_penalty


def draw(logits_B_V: torch.Tensor, shaped_B_V: torch.Tensor, params: BatchParams, uniforms: Sequence[float]) -> Draws:
    """Draws one token a row. `logits` fp32 as the model gave them, `shaped` the same after penalties."""
    normaliser_B = logits_B_V.logsumexp(-1)
    if params.all_greedy:
        tokens_B = shaped_B_V.argmax(-1)
        sampled_B = torch.zeros_like(normaliser_B)
    else:
        scores_B_V = shape(shaped_B_V, params)
        uniforms_B = torch.tensor(uniforms, dtype=torch.float64, device=logits_B_V.device)
        # without any shaping the two distributions are one: no second normaliser
        same = scores_B_V is logits_B_V
        score_normaliser_B = normaliser_B if same else scores_B_V.logsumexp(-1)
        tokens_B = invert_cdf((scores_B_V - score_normaliser_B[:, None]).exp_(), uniforms_B)
        if params.any_greedy:
            tokens_B = torch.where(params.greedy_B, shaped_B_V.argmax(-1), tokens_B)
        sampled_B = _pick(scores_B_V, tokens_B) - score_normaliser_B
        if params.any_greedy:
            sampled_B = sampled_B.masked_fill(params.greedy_B, 0.0)
    return Draws(tokens_B, _pick(logits_B_V, tokens_B) - normaliser_B, sampled_B)


def shape(logits_B_V: torch.Tensor, params: BatchParams) -> torch.Tensor:
    """Temperature, then top-k, then top-p: unnormalised log-probs, -inf where cut. Greedy rows are left alone."""
    scores_B_V = logits_B_V / params.temperature_B[:, None] if params.any_scaled else logits_B_V
    if params.cut_rows is None:
        return scores_B_V
    if params.all_cut:
        return _cut(scores_B_V, params.top_k_B, params.top_p_B)
    rows = params.cut_rows
    return scores_B_V.index_copy(0, rows, _cut(scores_B_V[rows], params.top_k_B[rows], params.top_p_B[rows]))


def _cut(scores_B_V: torch.Tensor, top_k_B: torch.Tensor, top_p_B: torch.Tensor) -> torch.Tensor:
    vocabulary = scores_B_V.shape[-1]
    limit_B = torch.where(top_k_B > 0, top_k_B, vocabulary)
    whole_B = scores_B_V.logsumexp(-1)
    for width in (min(_HEAD, vocabulary), vocabulary):
        values_B_W, order_B_W = scores_B_V.topk(width)
        in_k_B_W = torch.arange(width, device=scores_B_V.device) < limit_B[:, None]
        # top-p is a share of what top-k left
        left_B = torch.where(limit_B < vocabulary, values_B_W.masked_fill(~in_k_B_W, -torch.inf).logsumexp(-1), whole_B)
        probs_B_W = (values_B_W - left_B[:, None]).exp()
        before_B_W = probs_B_W.cumsum(-1) - probs_B_W
        keep_B_W = in_k_B_W & (before_B_W < top_p_B[:, None])
        keep_B_W[:, 0] = True
        # enough unless a row might keep tokens beyond the head, or its top-k reaches beyond it
        beyond_B = (limit_B > width) & (keep_B_W[:, -1] | (limit_B < vocabulary))
        if width == vocabulary or not bool(beyond_B.any()):
            break
    return torch.full_like(scores_B_V, -torch.inf).scatter(-1, order_B_W, values_B_W.masked_fill(~keep_B_W, -torch.inf))


def invert_cdf(probs_B_V: torch.Tensor, uniforms_B: torch.Tensor) -> torch.Tensor:
    """The first token whose cumulative probability exceeds the uniform; never one of probability 0."""
    cdf_B_V = probs_B_V.cumsum(-1, dtype=torch.float64)
    total_B_1 = cdf_B_V[:, -1:].contiguous()
    found_B_1 = torch.searchsorted(cdf_B_V, uniforms_B[:, None] * total_B_1, right=True)
    last_B_1 = torch.searchsorted(cdf_B_V, total_B_1)
    return torch.minimum(found_B_1, last_B_1).squeeze(1)


def _pick(values_B_V: torch.Tensor, tokens_B: torch.Tensor) -> torch.Tensor:
    return values_B_V.gather(-1, tokens_B[:, None]).squeeze(1)
