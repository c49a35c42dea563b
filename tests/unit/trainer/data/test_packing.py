"""Batches and blocks hold everything once an epoch, in orders that only the seed decides."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.trainer.data import packing


@given(count=st.integers(1, 40), epochs=st.integers(1, 3), size=st.integers(1, 50))
def test_every_epoch_holds_every_item_once_and_as_many_batches_come_as_were_announced(
    count: int, epochs: int, size: int
) -> None:
    items = list(range(count))
    batches = list(packing.batches(items, epochs, size, "a method", 7))
    assert len(batches) == packing.steps_of(count, epochs, size)
    a_pass = packing.steps_of(count, 1, size)
    for epoch in range(epochs):
        mine = batches[epoch * a_pass : (epoch + 1) * a_pass]
        assert sorted(itertools.chain(*mine)) == items


def test_orders_differ_by_epoch_method_and_seed_and_by_nothing_else() -> None:
    def order(label: str, seed: int) -> list[int]:
        return list(itertools.chain(*packing.batches(range(30), 2, 30, label, seed)))

    assert order("dpo", 1) == order("dpo", 1)
    assert order("dpo", 1)[:30] != order("dpo", 1)[30:]
    assert order("dpo", 1) != order("kto", 1) and order("dpo", 1) != order("dpo", 2)


DOCUMENTS = st.lists(st.lists(st.integers(0, 999), min_size=1, max_size=12), min_size=1, max_size=8)


@given(documents=DOCUMENTS, epochs=st.integers(1, 3), length=st.integers(1, 20))
def test_blocks_predict_every_token_but_the_first_exactly_once(
    documents: list[list[int]], epochs: int, length: int
) -> None:
    blocks = list(packing.blocks(documents, epochs, length, 7))
    assert len(blocks) == packing.blocks_of(documents, epochs, length)
    predicted = [token for block in blocks for token in block[1:]]
    everything = sorted(token for document in documents for token in document * epochs)
    first = blocks[0][:1] if blocks else tuple(documents[0])
    assert sorted([*first, *predicted]) == everything
    assert all(len(block) == length + 1 for block in blocks[:-1])
    assert all(one[-1] == other[0] for one, other in itertools.pairwise(blocks))


def test_documents_keep_their_inner_order() -> None:
    documents = [[10 * i, 10 * i + 1, 10 * i + 2] for i in range(1, 6)]
    blocks = list(packing.blocks(documents, 1, 4, 3))
    stream = [blocks[0][0], *(token for block in blocks for token in block[1:])]
    assert sorted(tuple(stream[i : i + 3]) for i in range(0, 15, 3)) == [tuple(one) for one in documents]


@pytest.mark.parametrize(("count", "groups"), [(0, []), (4, [2, 2]), (5, [2, 2, 1])])
def test_groups_are_of_one_size_but_the_last(count: int, groups: list[int]) -> None:
    assert [len(group) for group in packing.grouped(iter(range(count)), 2)] == groups
