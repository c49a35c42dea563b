"""The lines beside a reward model: a coin, the best constant, bags of words; deterministic and hard to flatter."""

import math
import random
from typing import Any

import pytest

from trimtab.trainer.reward import baselines, labels


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


def rankings(count: int, seed: int) -> list[labels.Ranking]:
    """Three answers, the first two places often tied; "thanks" is mostly first."""
    rng = random.Random(seed)
    made = []
    for pair in pairs(count, seed):
        third = " ".join(rng.choices("abcdefgh", k=6))
        ranks = (1, 1, 3) if rng.random() < 0.3 else (1, 2, 3)
        made.append(labels.Ranking((pair.chosen, third, pair.rejected), ranks))
    return made


def ratings(count: int, seed: int) -> list[labels.Rating]:
    """Five stars for "thanks" and one for "whatever" in half of the cases, else two to four."""
    rng = random.Random(seed)
    return [
        labels.Rating(one.response, (5 if one.up else 1) if rng.random() < 0.5 else rng.randint(2, 4), 5)
        for one in thumbs(count, seed)
    ]


def test_the_best_constant_of_each_kind_is_the_entropy_of_what_was_said() -> None:
    tied = [labels.Pair("x", "y", tie=number < 10) for number in range(40)]
    tie_or_not = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert baselines.best_constant(tied).nll == pytest.approx(tie_or_not + 0.75 * math.log(2))
    assert baselines.best_constant(tied[10:]).nll == pytest.approx(math.log(2))
    stars = [labels.Rating("x", 1 + number % 2, 5) for number in range(10)] + [labels.Rating("x", 3, 10)] * 10
    assert baselines.best_constant(stars).nll == pytest.approx(math.log(2) / 2)
    orders = [labels.Ranking(tuple("abc"), (1, 2, 3))] * 20
    assert baselines.best_constant(orders).nll == pytest.approx(math.log(6))
    two = [labels.Ranking(tuple("ab"), (1, 1 if number < 10 else 2)) for number in range(40)]
    assert baselines.best_constant(two).nll == pytest.approx(baselines.best_constant(tied).nll, abs=1e-6)


@pytest.mark.parametrize("kind", [ratings, rankings])
def test_words_that_tell_beat_the_constant_under_the_likelihood_of_stars_and_rankings(kind: Any) -> None:
    seen, unseen = kind(300, 1), kind(300, 2)
    line, constant = baselines.bag_of_words(seen, unseen), baselines.best_constant(unseen)
    assert line.nll < constant.nll - 0.02
    assert len(line.nll_P) == len(unseen)
    if kind is rankings:
        assert line.accuracy is not None and line.accuracy > 0.6


def test_words_beat_the_constant_where_raters_may_tie() -> None:
    rng = random.Random(3)
    seen, unseen = (
        [labels.Pair(one.chosen, one.rejected, tie=rng.random() < 0.2) for one in pairs(300, seed)] for seed in (1, 2)
    )
    line = baselines.bag_of_words(seen, unseen)
    assert line.nll < baselines.best_constant(unseen).nll - 0.05
    assert line.accuracy == pytest.approx(0.75, abs=0.06)


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
