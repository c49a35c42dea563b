"""What is too rare, or all alike, in either split is neither trained on nor judged, and counted."""

import pytest

from trimtab.modeling import answers
from trimtab.trainer.data import encoding
from trimtab.trainer.reward import labels, material

ONE = answers.Answer((1,), (2,))


def feedback(*said: labels.Label) -> material.Feedback:
    items = [material.Item(label, (ONE,) * len(label.texts)) for label in said]
    return material.Feedback(tuple(material.in_order(items)))


def thumbs(count: int) -> list[labels.Label]:
    return [labels.Thumb(f"t{number}", number % 2 == 0) for number in range(count)]


def pairs(count: int, *, tied: int = 0, edited: bool = False) -> list[labels.Label]:
    return [labels.Pair(f"a{n}", f"b{n}", tie=n < tied, edited=edited) for n in range(count)]


def ratings(count: int, scale: int = 5) -> list[labels.Label]:
    return [labels.Rating(f"s{number}", 1 + number % scale, scale) for number in range(count)]


def rankings(count: int, *ranks: int) -> list[labels.Label]:
    return [labels.Ranking(tuple(f"{n} {k}" for k in range(len(ranks))), ranks) for n in range(count)]


def judged(train: list[labels.Label], held_out: list[labels.Label], minimum: int = 4) -> tuple[list[int], set[str]]:
    skipped = encoding.Skipped()
    left = material.judged_kinds(feedback(*train), feedback(*held_out), minimum, skipped)
    return [len(split) for split in left], {name.removeprefix("skipped: ") for name in skipped.figures()}


def test_enough_of_every_kind_stays() -> None:
    every = [*pairs(8, tied=4), *pairs(4, edited=True), *thumbs(4), *ratings(16), *ratings(4, 2), *rankings(4, 1, 2)]
    assert judged(every, every) == ([len(every)] * 2, set())


@pytest.mark.parametrize(
    ("rare", "reason", "kept"),
    [
        (pairs(3), "pairs in a split of fewer than 4", 0),
        (pairs(3, edited=True), "edits in a split of fewer than 4", 0),
        (pairs(9, tied=3), "ties in a split of fewer than 4", 6),
        (ratings(15), "ratings of 5 stars in a split of fewer than 16", 0),
        (rankings(3, 1, 2, 3), "rankings in a split of fewer than 4", 0),
        (pairs(4, tied=4), "pairs all alike in a split", 0),
        ([labels.Thumb("t", True)] * 4, "thumbs all alike in a split", 0),
        ([labels.Rating("t", 5, 5)] * 16, "ratings of 5 stars all alike in a split", 0),
        (rankings(4, 1, 1), "rankings all alike in a split", 0),
    ],
)
def test_what_is_rare_or_alike_in_one_split_is_left_out_of_both(
    rare: list[labels.Label], reason: str, kept: int
) -> None:
    kind = rare[0].kind
    plenty = {"pair": pairs(20, tied=6), "edit": pairs(20, edited=True), "thumb": thumbs(20), "rating": ratings(40)}
    other = plenty.get(kind, [*rankings(10, 1, 2, 3), *rankings(10, 1, 1)])
    for train, held_out in ((rare, other), (other, rare)):
        sizes, reasons = judged(train, held_out)
        assert reason in reasons
        assert sizes[0 if train is rare else 1] == kept


def test_a_tie_larger_than_the_other_split_ever_has_is_left_out() -> None:
    train = [*rankings(5, 1, 2, 3), *rankings(5, 1, 1, 3), *rankings(5, 1, 1, 1)]
    held_out = [*rankings(5, 1, 2, 3), *rankings(5, 1, 1, 3)]
    assert judged(train, held_out) == ([10, 10], {"rankings with a tie of a size that one split lacks"})
