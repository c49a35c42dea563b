"""From examples to the batches of a run, and from documents to blocks of equal length.

Both are functions of (seed, epoch), so that a resumed run skips those that it has done.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

from trimtab.trainer.data import encoding

_One = TypeVar("_One")


def batches(items: Sequence[_One], epochs: int, size: int, label: str, seed: int) -> Iterator[list[_One]]:
    """The steps of all epochs: every epoch in an order of its own, cut into batches. label: whose order it is."""
    for epoch in range(epochs):
        order = _order(len(items), label, seed, epoch)
        for start in range(0, len(order), size):
            yield [items[i] for i in order[start : start + size]]


def steps_of(count: int, epochs: int, size: int) -> int:
    """How many batches `batches` gives."""
    return epochs * -(-count // size)


def blocks(documents: Sequence[Sequence[int]], epochs: int, length: int, seed: int) -> Iterator[tuple[int, ...]]:
    """Documents laid end to end, every epoch in an order of its own, in blocks that predict `length` tokens each.

    A block begins with the last token of the one before, from which its first token is predicted: so every token but
    the very first is predicted exactly once an epoch, and only the last block may be shorter.
    """
    held: list[int] = []
    for epoch in range(epochs):
        for i in _order(len(documents), "documents", seed, epoch):
            held += documents[i]
            while len(held) > length:
                yield tuple(held[: length + 1])
                held = held[length:]
    if len(held) > 1:
        yield tuple(held)


def blocks_of(documents: Sequence[Sequence[int]], epochs: int, length: int) -> int:
    """How many blocks `blocks` gives."""
    return -(-(epochs * sum(map(len, documents)) - 1) // length)


def grouped(items: Iterator[_One], size: int) -> Iterator[list[_One]]:
    """Lists of `size` items; the last may be shorter."""
    while group := list(itertools.islice(items, size)):
        yield group


def _order(count: int, label: str, seed: int, epoch: int) -> list[int]:
    order = list(range(count))
    random.Random(encoding.seed_of(seed, label, epoch)).shuffle(order)
    return order
