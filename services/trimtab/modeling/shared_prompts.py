"""Log-probabilities of several answers to one prompt, the prompt read once. Called by `trainer.methods.references`.

A row is a prompt and its answers end to end, each without its last token. A token attends to what is before it in the
prompt and in its own answer: a block mask hides the sisters, and an answer's position ids go on from the prompt's end.
So values and gradients are those of `modeling.logprobs` up to float rounding, at p + a + b positions in place of
2 p + a + b, and no row is padded because its sister is longer. Letters as there; G: rows.

    prompt p0 p1 p2, answers a0 a1 a2 and b0 b1     row         p0 p1 p2 a0 a1 b0
                                                    positions    0  1  2  3  4  3
                                                    predicts           a0 a1 a2
                                                                       b0       b1
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from trimtab.modeling import logprobs

Group = tuple[logprobs.Tokens, Sequence[logprobs.Tokens]]
_PROMPT, _PADDING = -1, -2


def flat_logprobs(model: Any, groups: Sequence[Group]) -> torch.Tensor:
    """logprobs_N of one forward pass: the tokens of every answer of every group (prompt, answers), end to end.

    Prompts must not be empty. A model that cannot share reads the prompt again with each answer.
    """
    if not can_share(model) or all(len(answers) == 1 for _, answers in groups):
        prompts = [prompt for prompt, answers in groups for _ in answers]
        return logprobs.flat_logprobs(model, prompts, [answer for _, answers in groups for answer in answers])
    if not all(prompt for prompt, _ in groups):
        raise ValueError("a prompt must hold at least one token")
    device = model.device
    layout = _Layout(groups)
    hidden_G_S_D = model.base_model(
        input_ids=layout.ids_G_S.to(device),
        attention_mask=_mask(layout.owners_G_S.to(device), model.dtype),
        position_ids=layout.places_G_S.to(device),
        use_cache=False,
    ).last_hidden_state
    hidden_N_D = hidden_G_S_D.flatten(0, 1)[torch.tensor(layout.predictors_N, device=device)]
    return logprobs.logprobs_of_hidden(model, hidden_N_D, [answer for _, answers in groups for answer in answers])


def can_share(model: Any) -> bool:
    """Whether the model heeds a mask and positions of ours: every layer sees everything before it, and no layer
    derives distances from where a token stands in the row."""
    settings = model.config.get_text_config(decoder=True)
    layers = getattr(settings, "layer_types", None)
    everything = set(layers) == {"full_attention"} if layers else getattr(settings, "sliding_window", None) is None
    takes_positions = "position_ids" in inspect.signature(model.base_model.forward).parameters
    own_distances = bool(getattr(settings, "alibi", False))
    implementation = model.config._attn_implementation or ""
    masked = not any(name in implementation for name in ("flash", "flex", "paged"))
    return everything and takes_positions and masked and not own_distances


class _Layout:
    """Whose token stands where in each row, its position, and the flat index that each answer token is predicted at."""

    def __init__(self, groups: Sequence[Group]) -> None:
        width = max(len(prompt) + sum(len(answer) - 1 for answer in answers) for prompt, answers in groups)
        self.ids_G_S = torch.zeros((len(groups), width), dtype=torch.long)
        self.owners_G_S = torch.full_like(self.ids_G_S, _PADDING)
        self.places_G_S = torch.zeros_like(self.ids_G_S)
        self.predictors_N: list[int] = []
        for row, (prompt, answers) in enumerate(groups):
            read = end = len(prompt)
            self._put(row, 0, prompt, _PROMPT, 0)
            for number, answer in enumerate(answers):
                start, end = end, end + len(answer) - 1
                self._put(row, start, answer[:-1], number, read)
                self.predictors_N += [row * width + read - 1, *range(row * width + start, row * width + end)]

    def _put(self, row: int, start: int, tokens: logprobs.Tokens, owner: int, place: int) -> None:
        here = slice(start, start + len(tokens))
        self.ids_G_S[row, here] = torch.tensor(tokens)
        self.owners_G_S[row, here] = owner
        self.places_G_S[row, here] = torch.arange(place, place + len(tokens))


def _mask(owners_G_S: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Added to attention scores, (G, 1, S, S): 0 where a token may look, the least number where it may not."""
    width = owners_G_S.shape[1]
    before_S_S = torch.ones(width, width, dtype=torch.bool, device=owners_G_S.device).tril()
    seen_G_S_S = (owners_G_S[:, None, :] == owners_G_S[:, :, None]) | (owners_G_S[:, None, :] == _PROMPT)
    hidden_G_S_S = ~(before_S_S & seen_G_S_S)
    scores = torch.zeros(hidden_G_S_S.shape, dtype=dtype, device=owners_G_S.device)
    return scores.masked_fill_(hidden_G_S_S, torch.finfo(dtype).min)[:, None]
