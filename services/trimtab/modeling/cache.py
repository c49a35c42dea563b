"""The key-value cache of a continuous batch: rows are slots, columns a window that all rows share, aligned at its end.

Used by `modeling.decoder` only. A row's tokens stand in the last columns of the window, whatever its length (left
padding); a freed slot is overwritten by the next request, so nothing is moved when rows come and go, and the buffers
are copied only when they grow. Which columns count is said by the attention mask, made from lengths.
Shapes: B slots, H heads, C columns of capacity, D head size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import cache_utils

_SLACK = 64


class _Window:
    """The columns in use, [start, end); shared by the layers."""

    def __init__(self) -> None:
        self.start = 0
        self.end = 0


class _SlotLayer(cache_utils.CacheLayerMixin):  # type: ignore[misc]  # transformers is not checked
    """One layer's buffers, (B, H, C, D) each; `update` writes one column and returns the window."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, window: _Window, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self._window = window
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        raise RuntimeError("slots are made by SlotCache.place, and not as transformers makes layers")

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start, end = self._window.start, self._window.end
        self.keys[:, :, end] = key_states[:, :, 0]
        self.values[:, :, end] = value_states[:, :, 0]
        return self.keys[:, :, start : end + 1], self.values[:, :, start : end + 1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self._window.end - self._window.start

    def get_max_length(self) -> int:
        return -1


class SlotCache(cache_utils.Cache):  # type: ignore[misc]  # transformers is not checked
    """A cache for single-token steps over slots. `advance` after every forward pass."""

    layers: list[_SlotLayer]

    def __init__(self) -> None:
        self._window = _Window()
        super().__init__(layers=[])
        self.slots = 0

    @property
    def start(self) -> int:
        return self._window.start

    @property
    def end(self) -> int:
        return self._window.end

    def place(
        self, filled: cache_utils.DynamicCache, rows: Sequence[int], slots: Sequence[int], length: int, total: int
    ) -> None:
        """Copies `rows` of a cache of `length` columns into `slots`; `total`: slots there are from now on."""
        if not self.layers:
            self._create(filled, total, length)
        elif total > self.slots or self._window.end < length:
            self._rebuild(None, total, max(length, self._window.end - self._window.start))
        end = self._window.end
        self._window.start = min(self._window.start, end - length)
        device = self.layers[0].keys.device
        source, target = torch.tensor(rows, device=device), torch.tensor(slots, device=device)
        for layer, other in zip(self.layers, filled.layers, strict=True):
            layer.keys[target, :, end - length : end] = other.keys[source]
            layer.values[target, :, end - length : end] = other.values[source]

    def make_room(self, start: int) -> None:
        """Forgets the columns before `start` and makes sure that one more column fits."""
        self._window.start = start
        if self._window.end == self.layers[0].keys.shape[2]:
            self._rebuild(None, self.slots, self._window.end - start)

    def advance(self) -> None:
        """The column that the last forward pass wrote counts from now on."""
        self._window.end += 1

    def keep(self, slots: Sequence[int]) -> None:
        """Drops all other slots; the kept ones are renumbered in this order."""
        self._rebuild(slots, len(slots), self._window.end - self._window.start)

    def _create(self, filled: cache_utils.DynamicCache, total: int, length: int) -> None:
        def buffer(like: torch.Tensor) -> torch.Tensor:
            # zeros: what a mask hides must still be finite
            return like.new_zeros((total, like.shape[1], length + _SLACK, like.shape[3]))

        self.layers = [_SlotLayer(self._window, buffer(layer.keys), buffer(layer.values)) for layer in filled.layers]
        self._window.start, self._window.end, self.slots = 0, length, total

    def _rebuild(self, slots: Sequence[int] | None, total: int, width: int) -> None:
        """New buffers of `total` slots, the window's columns at the end of their first `width` columns."""
        start, end = self._window.start, self._window.end
        chosen = None if slots is None else torch.tensor(slots, device=self.layers[0].keys.device)
        capacity = width + _SLACK + width // 4

        def moved(old: torch.Tensor) -> torch.Tensor:
            new = old.new_zeros((total, old.shape[1], capacity, old.shape[3]))
            kept = old[:, :, start:end] if chosen is None else old[chosen, :, start:end]
            new[: kept.shape[0], :, width - (end - start) : width] = kept
            return new

        for layer in self.layers:
            layer.keys, layer.values = moved(layer.keys), moved(layer.values)
        self._window.start, self._window.end, self.slots = width - (end - start), width, total
