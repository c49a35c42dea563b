"""Log-probabilities of answers under a causal language model, at temperature 1 and untruncated ("raw").

The trainer's losses, the reward hub and the check that a served completion recomputes all go through here. Letters:
B sequences, S tokens of the longest, N response tokens laid end to end, D hidden size, V vocabulary, M hidden states
that were computed.

Three traps are shut by construction. What exists is known from lengths, so a pad token that equals the end-of-sequence
token is no special case. Rows meet only in `modeling.packing`, which keeps them apart, so padding and batch neighbours
do not matter (up to float rounding). Logits exist only at response positions and only `chunk` of them at a
time, recomputed in the backward pass: never B x S x V.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.utils import checkpoint

from trimtab.modeling import packing

# Input positions of a forward pass that keeps nothing for a backward pass. Few: what fits into a core's cache is fast.
FORWARD_POSITIONS = 1024
# Numbers in the widest activation of a micro-batch: the 2 MiB in fp32 that a core keeps near.
_ACTIVATIONS_HELD = 2**19
_FEWEST_POSITIONS = 512
# Logits held at once: 64 MiB in fp32.
_LOGITS_HELD = 2**24

Tokens = Sequence[int]


def response_logprobs(
    model: Any, prompts: Sequence[Tokens], responses: Sequence[Tokens], *, chunk: int | None = None
) -> list[torch.Tensor]:
    """log p(response token | what is before it), one 1-D tensor per answer. chunk: positions whose logits coexist.

    Prompts must not be empty: the first response token is predicted from the prompt's last. Works in batches of
    similar length; gradients flow if they are enabled.
    """
    rows: list[torch.Tensor] = [torch.empty(0)] * len(prompts)
    lengths = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
    for batch in batches_by_length(lengths, FORWARD_POSITIONS, groups=[tuple(prompt) for prompt in prompts]):
        chosen = [responses[i] for i in batch]
        flat_N = flat_logprobs(model, [prompts[i] for i in batch], chosen, chunk=chunk)
        for i, row_T in zip(batch, by_answer(flat_N, chosen), strict=True):
            rows[i] = row_T
    return rows


def micro_batch_positions(model: Any, asked: int) -> int:
    """Input positions of a forward pass that keeps its activations. asked: 0 for what this model is fastest with."""
    if asked:
        return asked
    config = model.config.get_text_config()
    width = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return max(_FEWEST_POSITIONS, _ACTIVATIONS_HELD // int(width))


def by_answer(values_N: torch.Tensor, responses: Sequence[Tokens]) -> tuple[torch.Tensor, ...]:
    """values_N of answers laid end to end, cut into one tensor per answer."""
    return torch.split(values_N, [len(response) for response in responses])


def flat_logprobs(
    model: Any, prompts: Sequence[Tokens], responses: Sequence[Tokens], *, chunk: int | None = None
) -> torch.Tensor:
    """logprobs_N of one batch in one forward pass: every answer's tokens, end to end in the order given."""
    return logprobs_of_hidden(
        model, hidden_before_responses(model.base_model, prompts, responses), responses, chunk=chunk
    )


def logprobs_of_hidden(
    model: Any, hidden_N_D: torch.Tensor, responses: Sequence[Tokens], *, chunk: int | None = None
) -> torch.Tensor:
    """logprobs_N from `hidden_before_responses`, for callers that need the hidden states too."""
    targets_N = torch.tensor([token for response in responses for token in response], device=hidden_N_D.device)
    vocabulary = model.get_output_embeddings().weight.shape[0]
    size = chunk or max(1, _LOGITS_HELD // vocabulary)
    if targets_N.numel() <= size:
        return _logprobs(model, hidden_N_D, targets_N)
    parts = [
        checkpoint.checkpoint(_logprobs, model, hidden, targets, use_reentrant=False)
        for hidden, targets in zip(torch.split(hidden_N_D, size), torch.split(targets_N, size), strict=True)
    ]
    return torch.cat(parts)


def hidden_before_responses(backbone: Any, prompts: Sequence[Tokens], responses: Sequence[Tokens]) -> torch.Tensor:
    """hidden_N_D: the last hidden state at the position *before* each response token, where it is predicted from."""
    if not all(prompts):
        raise ValueError("a prompt must hold at least one token")
    # the last response token predicts nothing that is asked for
    inputs = [[*prompt, *response[:-1]] for prompt, response in zip(prompts, responses, strict=True)]
    hidden_M_D, index_B_S = packing.hidden_states(backbone, inputs)
    places = [
        index_B_S[row, len(prompt) - 1 : len(prompt) - 1 + len(response)]
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
    ]
    return hidden_M_D.index_select(0, torch.cat(places).to(hidden_M_D.device))


def batches_by_length(
    lengths: Sequence[int],
    positions: int,
    rows: int | None = None,
    *,
    groups: Sequence[Hashable] | None = None,
) -> Iterator[list[int]]:
    """Indices, longest rows first, in batches whose padded size stays within `positions` (a single row may exceed).

    rows: most rows of a batch. groups: rows of one group stay together as far as they fit, so that what they share (a
    prompt) is computed once.
    """
    of = range(len(lengths)) if groups is None else groups
    first: dict[Hashable, int] = {}
    longest: dict[Hashable, int] = {}
    for i, length in enumerate(lengths):
        first.setdefault(of[i], i)
        longest[of[i]] = max(length, longest.get(of[i], 0))
    batch: list[int] = []
    width = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-longest[of[i]], first[of[i]], -lengths[i], i)):
        width = max(width, lengths[i])
        if batch and ((len(batch) + 1) * width > positions or len(batch) == rows):
            yield batch
            batch, width = [], lengths[i]
        batch.append(i)
    if batch:
        yield batch


def _logprobs(model: Any, hidden_N_D: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    return -functional.cross_entropy(_logits(model, hidden_N_D), targets_N, reduction="none")


def _logits(model: Any, hidden_N_D: torch.Tensor) -> torch.Tensor:
    """What the model's own forward does after its last layer, in fp32 at least."""
    logits_N_V = model.get_output_embeddings()(hidden_N_D)
    if logits_N_V.dtype in (torch.bfloat16, torch.float16):
        logits_N_V = logits_N_V.float()
    settings = model.config.get_text_config()
    if getattr(settings, "logits_scaling", None):  # Granite
        logits_N_V = logits_N_V / settings.logits_scaling
    if getattr(settings, "logit_scale", None):  # Cohere
        logits_N_V = logits_N_V * settings.logit_scale
    if getattr(settings, "final_logit_softcapping", None):  # Gemma 2
        cap = settings.final_logit_softcapping
        logits_N_V = torch.tanh(logits_N_V / cap) * cap
    return logits_N_V  # type: ignore[no-any-return]
