"""Simulated raters: what they are made of is recovered from what they say, one kind alone and all together.

20 texts with rewards of spread 1. Tolerances are about three standard errors at these sample sizes.
"""

import math

import pytest
from tests.unit.trainer.reward import simulating

from trimtab.trainer.reward import terms

MANY = 3000


@pytest.fixture
def crowd() -> simulating.Crowd:
    return simulating.Crowd(7)


def scale_of(fit: simulating.Fit, crowd: simulating.Crowd) -> float:
    """By how much the rewards were stretched (least squares)."""
    products = math.fsum(a * b for a, b in zip(fit.rewards, crowd.rewards, strict=True))
    return products / math.fsum(b * b for b in crowd.rewards)


def error(fit: simulating.Fit, crowd: simulating.Crowd, scale: float) -> float:
    return fit.error([scale * reward for reward in crowd.rewards]) / scale


def check_thumbs(found: terms.ThumbTerms, crowd: simulating.Crowd, constant: float) -> None:
    """Tempers within their standard error of 2 / sqrt(125) or so; the constant of r hides in the intercept."""
    tempers = [found.raters[found.rater_numbers[f"r{rater}"]].item() for rater in range(simulating.RATERS)]
    squares = [(a - b) ** 2 for a, b in zip(tempers, crowd.tempers, strict=True)]
    assert math.sqrt(sum(squares) / len(squares)) < 0.3
    level = found.intercept.item() + found.log_slope.exp().item() * constant
    assert level == pytest.approx(simulating.INTERCEPT + sum(crowd.tempers) / simulating.RATERS, abs=0.3)
    gap = found.surfaces[found.surface_numbers["chat"]] - found.surfaces[found.surface_numbers["mail"]]
    assert gap.item() == pytest.approx(0.6, abs=0.25)


def test_pairs_alone_give_the_rewards_back(crowd: simulating.Crowd) -> None:
    fit = simulating.fitted(crowd.say(MANY, crowd.pair))
    # the centre term, which fixes the constant, shrinks rewards of spread 1 by an eighth
    assert scale_of(fit, crowd) == pytest.approx(0.87, abs=0.08)
    assert error(fit, crowd, 0.87) < 0.2
    assert fit.constant == pytest.approx(0.0, abs=0.02)


def test_ties_alone_give_the_rewards_and_their_frequency_back(crowd: simulating.Crowd) -> None:
    fit = simulating.fitted(crowd.say(MANY, crowd.pair_or_tie))
    assert error(fit, crowd, 0.87) < 0.25
    assert fit.terms.hub().ties == pytest.approx(simulating.NU, abs=0.12)


def test_thumbs_alone_give_the_rewards_back_on_their_own_scale(crowd: simulating.Crowd) -> None:
    fit = simulating.fitted(crowd.say(MANY, crowd.thumb))
    assert fit.terms.hub().slope == 1.0
    assert scale_of(fit, crowd) == pytest.approx(simulating.SLOPE, abs=0.25)
    assert error(fit, crowd, simulating.SLOPE) < 0.2
    check_thumbs(fit.terms.thumbs, crowd, fit.constant)


def test_stars_alone_give_the_rewards_back_on_their_own_scale(crowd: simulating.Crowd) -> None:
    fit = simulating.fitted(crowd.say(MANY, crowd.rating))
    found = fit.terms.hub().stars["5"]
    assert found.slope == 1.0
    assert error(fit, crowd, simulating.STAR_SLOPE) < 0.3
    assert [cut - fit.constant for cut in found.cutpoints] == pytest.approx(simulating.CUTPOINTS, abs=0.25)


def test_rankings_alone_give_the_rewards_and_the_frequency_of_ties_back(crowd: simulating.Crowd) -> None:
    fit = simulating.fitted(crowd.say(MANY // 2, crowd.ranking))
    assert scale_of(fit, crowd) == pytest.approx(0.97, abs=0.08)
    assert error(fit, crowd, 0.97) < 0.15
    assert fit.terms.hub().ranking_ties == pytest.approx([simulating.DELTA], abs=0.06)


def test_pairs_and_thumbs_share_one_scale_and_the_slope_is_recovered(crowd: simulating.Crowd) -> None:
    fit = simulating.fitted(crowd.say(MANY, crowd.pair) + crowd.say(MANY, crowd.thumb))
    assert scale_of(fit, crowd) == pytest.approx(1.0, abs=0.12)
    assert error(fit, crowd, 1.0) < 0.15
    assert fit.terms.hub().slope == pytest.approx(simulating.SLOPE, abs=0.25)
    check_thumbs(fit.terms.thumbs, crowd, fit.constant)


def test_without_comparisons_thumbs_fix_the_scale_and_the_slope_of_stars_is_told_in_theirs(
    crowd: simulating.Crowd,
) -> None:
    fit = simulating.fitted(crowd.say(MANY, crowd.thumb) + crowd.say(MANY, crowd.rating))
    assert error(fit, crowd, simulating.SLOPE) < 0.2
    assert fit.terms.hub().slope == 1.0
    assert fit.terms.hub().stars["5"].slope == pytest.approx(simulating.STAR_SLOPE / simulating.SLOPE, abs=0.07)


def test_all_kinds_together_give_everything_back(crowd: simulating.Crowd) -> None:
    kinds = (crowd.pair_or_tie, crowd.thumb, crowd.rating, crowd.ranking)
    fit = simulating.fitted([item for kind in kinds for item in crowd.say(MANY // 2, kind)])
    hub = fit.terms.hub()
    assert scale_of(fit, crowd) == pytest.approx(1.0, abs=0.1)
    assert error(fit, crowd, 1.0) < 0.15
    assert hub.slope == pytest.approx(simulating.SLOPE, abs=0.3)
    assert hub.ties == pytest.approx(simulating.NU, abs=0.15)
    assert hub.ranking_ties == pytest.approx([simulating.DELTA], abs=0.07)
    assert hub.stars["5"].slope == pytest.approx(simulating.STAR_SLOPE, abs=0.15)
    level = [cut - hub.stars["5"].slope * fit.constant for cut in hub.stars["5"].cutpoints]
    assert level == pytest.approx(simulating.CUTPOINTS, abs=0.3)
