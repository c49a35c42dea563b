"""What `trimtab eval` makes of answers and scores."""

import math

import pytest

from trimtab.cli.evaluation import measuring
from trimtab.cli.evaluation.measuring import Answered, Judged, Mean


def answered(line: int, score: float | None, tokens: int = 10, finish: str = "ended") -> Answered:
    return Answered(line, finish, "text", tokens, score)


def test_means_have_a_normal_interval_once_there_are_two() -> None:
    # mean 2, variance 2 / (3 - 1) = 1, so the half width is 1.96 / sqrt(3)
    said = measuring.mean([1.0, 2.0, 3.0])
    half = 1.959963984540054 / math.sqrt(3)
    assert (said.mean, said.count) == (2.0, 3)
    assert (said.low, said.high) == (pytest.approx(2 - half), pytest.approx(2 + half))
    assert measuring.mean([4.0]) == Mean(4.0, None, None, 1)
    assert measuring.mean([]) == Mean(None, None, None, 0)


def test_means_are_said_with_their_interval() -> None:
    assert Mean(0.5, 0.25, 0.75, 9).in_words() == "0.500 [0.250, 0.750]"
    assert Mean(0.5, None, None, 1).in_words(1) == "0.5"
    assert Mean(None, None, None, 0).in_words() == "-"


def test_a_share_has_wilsons_interval() -> None:
    # Newcombe 1998, Stat. Med. 17:857, table I: 15 of 148 by Wilson's score is 0.0624 to 0.1605
    said = measuring.share(15, 148)
    assert (said.low, said.high) == (pytest.approx(0.0624, abs=5e-5), pytest.approx(0.1605, abs=5e-5))
    assert measuring.share(0, 0).mean is None


def test_a_summary_counts_every_prompt_once_and_invents_no_score() -> None:
    said = measuring.summary(
        "main@a",
        [
            answered(1, 1.0),
            answered(2, 3.0, 20, "truncated"),
            answered(3, None, 30),
            Answered(4, "refused", why="too long"),
        ],
        scored=True,
    )
    assert (said.prompts, said.ended, said.truncated, said.refused, said.unscored) == (4, 2, 1, 1, 1)
    assert (said.reward.mean, said.reward.count) == (2.0, 2)
    assert (said.tokens.mean, said.tokens.count) == (20.0, 3)
    assert measuring.summary("main@a", [answered(1, None)], scored=False).unscored == 0


def test_a_difference_is_paired_by_prompt() -> None:
    first = [answered(1, 1.0, 5), answered(2, 10.0, 6), answered(3, None, 7), Answered(4, "refused")]
    second = [answered(1, 0.5, 4), answered(2, 9.5, 4), answered(3, 2.0, 4), answered(4, 100.0, 4)]
    said = measuring.difference(first, second)
    # the same half both times: whatever the prompts do to both is gone
    assert said.reward == Mean(0.5, 0.5, 0.5, 2)
    assert (said.tokens.mean, said.tokens.count) == (2.0, 3)


def test_a_predictor_is_right_by_the_sign_and_pays_by_the_gap() -> None:
    judged = [Judged(1, 2.0, 0.0), Judged(2, 0.0, 2.0), Judged(3, 1.0, 1.0), Judged(4, None, 1.0, "sealed text")]
    said = measuring.predictor(judged)
    assert (said.accuracy.mean, said.accuracy.count) == (0.5, 3)
    # log(1 + e^-2), log(1 + e^2), log 2
    assert said.nll.mean == pytest.approx((0.126928 + 2.126928 + 0.693147) / 3, abs=1e-6)


def test_far_gaps_do_not_overflow() -> None:
    assert measuring.nll_of(2000.0) == 0.0
    assert measuring.nll_of(-2000.0) == 2000.0
