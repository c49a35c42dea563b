"""The lines beside a reward model: a coin, the best constant, bags of words; deterministic and hard to flatter."""

import math
import random

import pytest

from trimtab.trainer import baselines


def pairs(count: int, seed: int) -> list[baselines.LabelledPair]:
    """Raters who like "thanks" in three of four cases, among words that mean nothing."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        good, bad = (f"{' '.join(rng.choices('abcdefgh', k=6))} {word}" for word in ("thanks", "whatever"))
        made.append(baselines.LabelledPair(good, bad) if rng.random() < 0.75 else baselines.LabelledPair(bad, good))
    return made


def thumbs(count: int, seed: int) -> list[baselines.LabelledThumb]:
    return [
        baselines.LabelledThumb(text, up)
        for pair in pairs(count // 2, seed)
        for text, up in ((pair.chosen, True), (pair.rejected, False))
    ]


def test_the_best_constant_is_the_share_of_ups() -> None:
    line = baselines.best_constant([baselines.LabelledThumb("x", up) for up in (True, True, True, False)])
    assert line.nll == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert line.accuracy == 0.75
    assert baselines.best_constant([baselines.LabelledThumb("x", True)]).nll == 0.0


def test_words_that_tell_are_found_near_the_limit_of_what_can_be_known() -> None:
    limit = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    for line in (
        baselines.bag_of_words_pairs(pairs(400, 1), pairs(400, 2)),
        baselines.bag_of_words_thumbs(thumbs(400, 1), thumbs(400, 2)),
    ):
        assert line.accuracy == pytest.approx(0.75, abs=0.05)
        assert limit - 0.05 < line.nll < limit + 0.05


def test_where_words_tell_nothing_the_line_is_close_to_a_coin_not_overfitted() -> None:
    def noise(seed: int) -> list[baselines.LabelledPair]:
        rng = random.Random(seed)
        words = [f"w{i}" for i in range(200)]
        return [baselines.LabelledPair(*(" ".join(rng.choices(words, k=12)) for _ in range(2))) for _ in range(120)]

    line = baselines.bag_of_words_pairs(noise(1), noise(2))
    assert line.nll == pytest.approx(math.log(2), abs=0.03)


def test_the_same_examples_give_the_same_line() -> None:
    assert baselines.bag_of_words_pairs(pairs(90, 1), pairs(60, 2)) == baselines.bag_of_words_pairs(
        pairs(90, 1), pairs(60, 2)
    )


def test_texts_without_a_common_word_leave_a_coin() -> None:
    train = [baselines.LabelledPair("one", "two"), baselines.LabelledPair("three", "four")]
    line = baselines.bag_of_words_pairs(train, [baselines.LabelledPair("five", "six")])
    assert (line.nll, line.accuracy) == (pytest.approx(math.log(2)), 0.5)
