"""Rows of tokens through a causal backbone with nothing computed twice and nothing for padding.

Rows are laid end to end, and where a row begins as another does, that beginning is there once: a causal model's states
of it are the same. So the prompt is read once for a chosen and a rejected answer and for all samples of a group, and
the system prompt once for a batch. Embeddings, projections, feed-forward layers and norms treat every token by itself
and never notice. Only attention needs to know where rows begin and end: there they are set side by side, padded on the
right where causal attention cannot look, and taken apart again.

    rows     p0 p1 p2 a0 a1      tokens    p0 p1 p2 a0 a1 b0 q0 c0     side by side   0 1 2 3 4
             p0 p1 p2 b0                                                              0 1 2 5 -
             q0 c0                                                                    6 7 - - -

A backbone is packed where its attention goes through transformers' `AttentionInterface` as "sdpa" and rows end to end
come out as they do alone, which is tried once; any other is fed padded rows. Called by `modeling.logprobs` and
`modeling.rewards`. Letters: R rows, S tokens of the longest, N tokens of all rows without repetition, H heads, E size
of a head, D hidden size.
"""

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch.nn import functional
from transformers.integrations import sdpa_attention
from transformers.masking_utils import sdpa_mask

Tokens = Sequence[int]
_NAME = "trimtab_packed"
_TOLERANCE = 1e-3
# Where a backbone keeps whether it packs: seen through whatever passes on its attributes.
_PACKS = "_trimtab_packs"


class Layout:
    """Which token stands at which place when rows are set side by side (R x S), and what each row shares.

    token_R_S: number of the token at each place; a pad reads token 0, which nobody looks at. Rows are compared with
    their neighbours in lexicographic order, so any two that begin alike share that beginning. share: else none does.
    """

    def __init__(self, rows: Sequence[Tokens], device: torch.device, share: bool = True) -> None:
        order = sorted(range(len(rows)), key=lambda row: tuple(rows[row]))
        ids_R_S = right_padded([rows[row] for row in order], torch.device("cpu"))
        lengths_R = torch.tensor([len(rows[row]) for row in order])
        self.rows, self.width = ids_R_S.shape
        positions_S = torch.arange(self.width)
        exists_R_S = positions_S < lengths_R.unsqueeze(1)
        new_R_S = exists_R_S.clone()
        alike_R_S = (ids_R_S[1:] == ids_R_S[:-1]) & exists_R_S[1:] & exists_R_S[:-1]
        if share:
            new_R_S[1:] &= ~alike_R_S.long().cumprod(1).bool()
        self.first_places_N = new_R_S.flatten().nonzero().squeeze(1)
        numbers_R_S = torch.full((self.rows, self.width), -1)
        numbers_R_S.view(-1)[self.first_places_N] = torch.arange(len(self.first_places_N))
        # what a row shares with the one before it, that one may share too: the latest new token of a column is it
        token_R_S = torch.where(exists_R_S, numbers_R_S.cummax(0).values, 0)
        self.ids_N = ids_R_S.flatten()[self.first_places_N].to(device)
        self.positions_N = positions_S.expand_as(new_R_S)[new_R_S].to(device)
        self._index_places(token_R_S, exists_R_S, new_R_S, device)
        row_of = torch.empty(len(order), dtype=torch.long)
        row_of[torch.tensor(order)] = torch.arange(len(order))
        self.token_R_S = token_R_S[row_of]

    def _index_places(
        self, token_R_S: torch.Tensor, exists_R_S: torch.Tensor, new_R_S: torch.Tensor, device: torch.device
    ) -> None:
        """The lists that moving to and fro and its gradients sum over, as bags: members, and where each begins."""
        self.tokens = token_R_S.flatten().to(device)
        existing = exists_R_S.flatten().nonzero().squeeze(1)
        owners = token_R_S.flatten()[existing]
        self.places_of_token = existing[owners.argsort(stable=True)].to(device)
        self.places_begin_N = _begins(torch.bincount(owners, minlength=len(self.ids_N))).to(device)
        self.tokens_in_order = token_R_S.flatten()[self.first_places_N].to(device)
        self.tokens_begin = _begins(new_R_S.flatten().long()).to(device)
        self.first_places_N = self.first_places_N.to(device)
        self.plain = bool(exists_R_S.all()) and bool(new_R_S.all())


class _SideBySide(torch.autograd.Function):
    """(N, ...) to (R x S, ...). A token's gradient is the sum over its places; pads have none to give."""

    @staticmethod
    def forward(ctx: Any, values_N: torch.Tensor, layout: Layout) -> torch.Tensor:
        ctx.layout = layout
        return values_N.index_select(0, layout.tokens)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        layout = ctx.layout
        return _bag_sums(gradient, layout.places_of_token, layout.places_begin_N), None


class _EndToEnd(torch.autograd.Function):
    """(R x S, ...) to (N, ...): each token from the first of its places, which is where its gradient goes."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, layout: Layout) -> torch.Tensor:
        ctx.layout = layout
        return values.index_select(0, layout.first_places_N)

    @staticmethod
    def backward(ctx: Any, gradient_N: torch.Tensor) -> tuple[torch.Tensor, None]:
        layout = ctx.layout
        return _bag_sums(gradient_N, layout.tokens_in_order, layout.tokens_begin), None


def _begins(counts: torch.Tensor) -> torch.Tensor:
    return counts.cumsum(0) - counts


def _bag_sums(values: torch.Tensor, members: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
    """For each bag the sum of `values` at its members, 0 where it is empty: index_add in a third of its time."""
    sums: torch.Tensor = functional.embedding_bag(members, values.flatten(1), begins, mode="sum")
    return sums.view(-1, *values.shape[1:])


def _attention(  # noqa: PLR0917  # transformers' own signature
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed: Layout | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' "sdpa"; where `packed` says how rows lie end to end, over those: query (1, H, N, E)."""
    if packed is None:
        alone: tuple[torch.Tensor, None] = sdpa_attention.sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
        return alone

    # on a CPU the gradient of this attention takes twice as long in bfloat16 as in fp32
    rounded = value.dtype == torch.bfloat16 and value.device.type == "cpu"
    wide = torch.float32 if rounded else value.dtype

    def beside(values: torch.Tensor) -> torch.Tensor:
        flat = values.squeeze(0).transpose(0, 1).to(wide)  # N, H, E
        placed = flat if packed.plain else _SideBySide.apply(flat, packed)
        rows: torch.Tensor = placed.unflatten(0, (packed.rows, packed.width))
        return rows.transpose(1, 2)

    with torch.autocast(value.device.type, enabled=torch.is_autocast_enabled(value.device.type) and not rounded):
        answer = functional.scaled_dot_product_attention(
            beside(query), beside(key), beside(value), dropout_p=dropout, is_causal=True, scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip
    flat = answer.transpose(1, 2).flatten(0, 1)
    together: torch.Tensor = flat if packed.plain else _EndToEnd.apply(flat, packed)
    return together.unsqueeze(0), None


transformers.AttentionInterface.register(_NAME, _attention)
transformers.AttentionMaskInterface.register(_NAME, sdpa_mask)


def hidden_states(backbone: Any, rows: Sequence[Tokens]) -> tuple[torch.Tensor, torch.Tensor]:
    """Last hidden states (M, D), and at which of them each row's tokens are found: index_R_S, of use within lengths."""
    if packs(backbone, max(map(len, rows))):
        states_N_D, token_R_S = _packed(backbone, rows)
        # attention gives what it must not see a weight of 0, and 0 times NaN is NaN: a row that is no number would
        # spoil the beginnings that others have from it, and their pads; padded rows have neither from each other
        if len(rows) == 1 or torch.isfinite(states_N_D.detach().sum()):
            return states_N_D, token_R_S
    ids_R_S = right_padded(rows, backbone.device)
    hidden_R_S_D = backbone(input_ids=ids_R_S, use_cache=False).last_hidden_state
    return hidden_R_S_D.flatten(0, 1), torch.arange(ids_R_S.numel()).view(ids_R_S.shape)


def right_padded(rows: Sequence[Tokens], device: torch.device) -> torch.Tensor:
    """ids_R_S. The id used as padding does not matter and is never looked at: callers know the lengths."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)


def packs(backbone: Any, longest: int) -> bool:
    """Whether rows of up to `longest` tokens may lie end to end in this backbone."""
    window = getattr(backbone.config, "sliding_window", None)
    if window is not None and longest > window:
        return False
    if not hasattr(backbone, _PACKS):
        setattr(backbone, _PACKS, _prepared(backbone))
    return bool(getattr(backbone, _PACKS))


def _prepared(backbone: Any) -> bool:
    """Sets the backbone up for rows end to end, if that changes nothing but the time it takes."""
    config = backbone.config
    before = config._attn_implementation
    if not getattr(backbone, "_supports_attention_backend", False) or before not in ("sdpa", _NAME):
        return False
    rows = [[1, 2, 3, 4, 5], [6, 7, 8], [1, 2, 9]]
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            padded_R_S_D = backbone(input_ids=right_padded(rows, backbone.device), use_cache=False).last_hidden_state
            config._attn_implementation = _NAME
            packed_N_D, index_R_S = _packed(backbone, rows)
        same = all(
            torch.allclose(
                packed_N_D[index_R_S[number, : len(row)]], padded_R_S_D[number, : len(row)],
                rtol=_TOLERANCE, atol=_TOLERANCE,
            )
            for number, row in enumerate(rows)
        )  # fmt: skip
    except (TypeError, ValueError, RuntimeError):  # what an architecture says that takes no such input
        same = False
    finally:
        backbone.train(was_training)
    if not same:
        config._attn_implementation = before
    return same


def _packed(backbone: Any, rows: Sequence[Tokens]) -> tuple[torch.Tensor, torch.Tensor]:
    # transformers' norms round to fp32 in fp64 too, where the gradient of a sum is then not the sum of gradients to the
    # digits that fp64 is used for
    layout = Layout(rows, backbone.device, share=backbone.dtype != torch.float64)
    output = backbone(
        input_ids=layout.ids_N.unsqueeze(0),
        position_ids=layout.positions_N.unsqueeze(0),
        # a mask of four dimensions is taken as it is, and `_attention` looks at none
        attention_mask=torch.ones((1, 1, 1, 1), dtype=torch.bool, device=backbone.device),
        use_cache=False,
        packed=layout,
    )
    return output.last_hidden_state.squeeze(0), layout.token_R_S
