"""The lines beside a reward model: a coin, the best constant, bags of words; deterministic and hard to flatter."""

import math
import random

import pytest

from trimtab.trainer import baselines, labels


def pairs(count: int, seed: int) -> list[labels.Pair]:
    """Raters who like "thanks" in three of four cases, among words that mean nothing."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        good, bad = (f"{' '.join(rng.choices('abcdefgh', k=6))} {word}" for word in ("thanks", "whatever"))
        made.append(labels.Pair(good, bad) if rng.random() < 0.75 else labels.Pair(bad, good))
    return made


def thumbs(count: int, seed: int) -> list[labels.Thumb]:
    return [
        labels.Thumb(text, up)
        for pair in pairs(count // 2, seed)
        for text, up in ((pair.chosen, True), (pair.rejected, False))
    ]


def test_the_best_constant_is_the_share_of_ups() -> None:
    line = baselines.best_constant([labels.Thumb("x", up) for up in (True, True, True, False)])
    assert line.nll == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert line.accuracy == 0.75
    assert baselines.best_constant([labels.Thumb("x", True)]).nll == 0.0


def test_words_that_tell_are_found_near_the_limit_of_what_can_be_known() -> None:
    limit = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    for line in (
        baselines.bag_of_words(pairs(400, 1), pairs(400, 2)),
        baselines.bag_of_words(thumbs(400, 1), thumbs(400, 2)),
    ):
        assert line.accuracy == pytest.approx(0.75, abs=0.05)
        assert limit - 0.05 < line.nll < limit + 0.05


def test_where_words_tell_nothing_the_line_is_close_to_a_coin_not_overfitted() -> None:
    def noise(seed: int) -> list[labels.Pair]:
        rng = random.Random(seed)
        words = [f"w{i}" for i in range(200)]
        return [labels.Pair(*(" ".join(rng.choices(words, k=12)) for _ in range(2))) for _ in range(120)]

    line = baselines.bag_of_words(noise(1), noise(2))
    assert line.nll == pytest.approx(math.log(2), abs=0.03)


def test_the_same_examples_give_the_same_line() -> None:
    assert baselines.bag_of_words(pairs(90, 1), pairs(60, 2)) == baselines.bag_of_words(pairs(90, 1), pairs(60, 2))


def test_texts_without_a_common_word_leave_a_coin() -> None:
    train = [labels.Pair("one", "two"), labels.Pair("three", "four")]
    line = baselines.bag_of_words(train, [labels.Pair("five", "six")])
    assert (line.nll, line.accuracy) == (pytest.approx(math.log(2)), 0.5)
