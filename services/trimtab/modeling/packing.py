"""Rows of tokens through a causal backbone with nothing computed twice and nothing for padding.

Rows are laid end to end, and where a row begins as another does, that beginning is there once: a causal model's states
of it are the same. So the prompt is read once for a chosen and a rejected answer and for all samples of a group, and
the system prompt once for a batch. Embeddings, projections, feed-forward layers and norms treat every token by itself
and never notice. Only attention needs to know where rows begin and end: there rows of like length are set side by side,
padded on the right where causal attention cannot look, and taken apart again.

    rows     p0 p1 p2 a0 a1      tokens    p0 p1 p2 a0 a1 b0 q0 c0     side by side   0 1 2 3 4     6 7
             p0 p1 p2 b0                                                              0 1 2 5 -
             q0 c0

A backbone is packed where its attention goes through transformers' `AttentionInterface` as "sdpa" and rows end to end
come out as they do alone, which is tried once; any other is fed padded rows. Called by `modeling.logprobs` and
`modeling.rewards`. Letters: R rows, S tokens of the longest, N tokens of all rows without repetition, P places of rows
side by side, H heads, E size of a head, D hidden size.
"""

import contextlib
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
# Products of a query with a key that must be saved for one more call of attention.
_WORTH_A_CALL = 2**13
# Where a backbone keeps whether it packs: seen through whatever passes on its attributes.
_PACKS = "_trimtab_packs"
# Where it keeps that rows with a NaN are not read once more.
_ONCE = "_trimtab_once"


class Layout:
    """Which token stands at which place when rows are set side by side, and what each row shares.

    token_R_S: number of each row's tokens; past its end 0, which nobody looks at. Rows are compared with their
    neighbours in lexicographic order, so any two that begin alike share that beginning. share: else none does.
    sides: (R, S) of each group of rows of like length; their places P are counted through.
    """

    def __init__(self, rows: Sequence[Tokens], device: torch.device, share: bool = True) -> None:
        order = sorted(range(len(rows)), key=lambda row: tuple(rows[row]))
        ids_R_S = right_padded([rows[row] for row in order], torch.device("cpu"))
        lengths = [len(rows[row]) for row in order]
        lengths_R = torch.tensor(lengths)
        positions_S = torch.arange(ids_R_S.shape[1])
        exists_R_S = positions_S < lengths_R.unsqueeze(1)
        new_R_S = exists_R_S.clone()
        alike_R_S = (ids_R_S[1:] == ids_R_S[:-1]) & exists_R_S[1:] & exists_R_S[:-1]
        if share:
            new_R_S[1:] &= ~alike_R_S.long().cumprod(1).bool()
        first_N = new_R_S.flatten().nonzero().squeeze(1)
        numbers_R_S = torch.full(ids_R_S.shape, -1)
        numbers_R_S.view(-1)[first_N] = torch.arange(len(first_N))
        # what a row shares with the one before it, that one may share too: the latest new token of a column is it
        token_R_S = torch.where(exists_R_S, numbers_R_S.cummax(0).values, 0)
        self.ids_N = ids_R_S.flatten()[first_N].to(device)
        self.positions_N = positions_S.expand_as(new_R_S)[new_R_S].to(device)
        groups = _of_like_length(lengths)
        widths = [max(lengths[row] for row in group) for group in groups]
        self.sides = [(len(group), width) for group, width in zip(groups, widths, strict=True)]

        def placed(values_R_S: torch.Tensor) -> torch.Tensor:
            parts = zip(groups, widths, strict=True)
            return torch.cat([values_R_S[group, :width].flatten() for group, width in parts])

        self._index_places(placed(token_R_S), placed(exists_R_S), placed(new_R_S), device)
        row_of = torch.empty(len(order), dtype=torch.long)
        row_of[torch.tensor(order)] = torch.arange(len(order))
        self.token_R_S = token_R_S[row_of]

    def _index_places(
        self, token_P: torch.Tensor, exists_P: torch.Tensor, new_P: torch.Tensor, device: torch.device
    ) -> None:
        """The lists that moving to and fro and its gradients sum over, as bags: members, and where each begins."""
        existing = exists_P.nonzero().squeeze(1)
        owners = token_P[existing]
        self.token_P = token_P.to(device)
        self.places_of_token = existing[owners.argsort(stable=True)].to(device)
        self.places_begin_N = _begins(torch.bincount(owners, minlength=len(self.ids_N))).to(device)
        first = new_P.nonzero().squeeze(1)
        self.first_places_N = first[token_P[first].argsort()].to(device)
        self.tokens_in_order = token_P[first].to(device)
        self.tokens_begin_P = _begins(new_P.long()).to(device)
        # where nothing repeats, nothing is padded and the order is the same, there is nothing to move
        self.plain = len(self.ids_N) == len(token_P) and len(self.sides) == 1


def _of_like_length(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of rows in groups, longest first, within a group in order.

    The work of attention grows with the square of a group's longest row. A group ends where those that are shorter
    would save more than another call costs.
    """
    groups: list[list[int]] = []
    remaining = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    widest = 0
    for number, row in enumerate(remaining):
        saved = (len(remaining) - number) * (widest**2 - lengths[row] ** 2)
        if not groups or saved >= _WORTH_A_CALL:
            groups.append([])
            widest = lengths[row]
        groups[-1].append(row)
    return [sorted(group) for group in groups]


class _SideBySide(torch.autograd.Function):
    """(N, ...) to (P, ...). A token's gradient is the sum over its places; pads have none to give."""

    @staticmethod
    def forward(ctx: Any, values_N: torch.Tensor, layout: Layout) -> torch.Tensor:
        ctx.layout = layout
        return values_N.index_select(0, layout.token_P)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        layout = ctx.layout
        return _bag_sums(gradient, layout.places_of_token, layout.places_begin_N), None


class _EndToEnd(torch.autograd.Function):
    """(P, ...) to (N, ...): each token from the first of its places, which is where its gradient goes."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, layout: Layout) -> torch.Tensor:
        ctx.layout = layout
        return values.index_select(0, layout.first_places_N)

    @staticmethod
    def backward(ctx: Any, gradient_N: torch.Tensor) -> tuple[torch.Tensor, None]:
        layout = ctx.layout
        return _bag_sums(gradient_N, layout.tokens_in_order, layout.tokens_begin_P), None


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

    def beside(values: torch.Tensor) -> list[torch.Tensor]:
        """(R, H, S, E) of each group."""
        flat = values.squeeze(0).transpose(0, 1).to(wide)  # N, H, E
        placed = flat if packed.plain else _SideBySide.apply(flat, packed)
        parts = placed.split([rows * width for rows, width in packed.sides])
        return [part.unflatten(0, side).transpose(1, 2) for part, side in zip(parts, packed.sides, strict=True)]

    with torch.autocast("cpu", enabled=False) if rounded else contextlib.nullcontext():
        answers = [
            functional.scaled_dot_product_attention(
                *group, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
            )
            for group in zip(beside(query), beside(key), beside(value), strict=True)
        ]
    flat = torch.cat([answer.transpose(1, 2).flatten(0, 1) for answer in answers])
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
        if len(rows) == 1 or hasattr(backbone, _ONCE) or torch.isfinite(states_N_D.detach().sum()):
            return states_N_D, token_R_S
    ids_R_S = right_padded(rows, backbone.device)
    hidden_R_S_D = backbone(input_ids=ids_R_S, use_cache=False).last_hidden_state
    return hidden_R_S_D.flatten(0, 1), torch.arange(ids_R_S.numel()).view(ids_R_S.shape)


def never_read_again(backbone: Any) -> None:
    """For a backbone that several processes read together: none may read it more often than the others. A NaN then
    spoils its micro-batch, whose step is skipped with or without that."""
    setattr(backbone, _ONCE, True)


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
