"""Of topic `models` nothing counts that was published under an older lease than what stands before it."""

import datetime

import pytest

from trimtab.core import models, text

AT = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)


def model(generation: int, line: str = "support") -> models.PublishedModel:
    context = text.Context("acme", line)
    return models.PublishedModel("a" * 64, context, models.ModelKind.POLICY, AT, generation=generation)


@pytest.mark.parametrize(
    ("generations", "admitted"),
    [
        ([1, 1, 2, 2], [True, True, True, True]),
        ([2, 1, 2, 3, 2], [True, False, True, True, False]),
        ([3, 0, 3], [True, True, True]),
        ([0, 1], [True, True]),
    ],
)
def test_a_record_counts_unless_a_newer_lease_stands_before_it(generations: list[int], admitted: list[bool]) -> None:
    fence = models.Fence()
    assert [fence.admits(model(one), offset) for offset, one in enumerate(generations)] == admitted
    assert fence.generation("acme", "support") == max(generations)


def test_a_record_that_is_replayed_counts_where_it_stood_first() -> None:
    fence = models.Fence()
    assert fence.admits(model(2), 7)
    assert fence.admits(model(1), 3)
    assert not fence.admits(model(1), 8)


def test_lines_are_fenced_each_for_itself() -> None:
    fence = models.Fence()
    assert fence.admits(model(5), 0)
    assert fence.admits(model(1, line="sales"), 1)
    assert (fence.generation("acme", "sales"), fence.generation("acme", "other")) == (1, 0)
