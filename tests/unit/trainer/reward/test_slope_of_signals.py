"""The slope of signals and its interval: right as often as it says, and silent where nothing can be told."""

import math
import random

import pytest
import torch

from trimtab.modeling import answers
from trimtab.trainer.reward import labels, material, signals

SLOPE = 0.8


def observed(rng: random.Random, raters: int, each: int, slope: float) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Signals of raters with tempers of their own: those of one rater are alike, more than the reward explains."""
    rewards, good, names = [], [], []
    for rater in range(raters):
        temper = rng.gauss(0, 1)
        for _ in range(each):
            reward = rng.gauss(0, 1)
            rewards.append(reward)
            good.append(rng.random() < 1 / (1 + math.exp(-slope * reward - temper)))
            names.append(str(rater))
    return torch.tensor(rewards), torch.tensor(good), names


def test_the_interval_holds_the_slope_about_as_often_as_it_says() -> None:
    rng = random.Random(11)
    # on average over tempers of spread 1 the slope is flatter: by 1 / sqrt(1 + 0.346) (Zeger et al. 1988)
    marginal = SLOPE / math.sqrt(1 + 0.346)
    held = 0
    for _ in range(120):
        _, lower, upper = signals.slope_interval(*observed(rng, 60, 4, SLOPE))
        held += lower < marginal < upper
    assert 0.88 <= held / 120 <= 0.99


def test_signals_that_do_not_follow_the_reward_show_no_slope() -> None:
    rng = random.Random(12)
    shown = sum(signals.slope_interval(*observed(rng, 60, 4, 0.0))[1] > 0 for _ in range(120))
    assert shown / 120 < 0.08


def test_figures_say_the_slope_only_where_it_can_be_told() -> None:
    def told(*said: tuple[float, bool, str]) -> dict[str, float]:
        items = [
            material.Item(labels.Thumb("x", good, rater=rater), (answers.Answer((1,), (2,)),), weight=0.0)
            for _, good, rater in said
        ]
        return signals.figures(items, torch.tensor([reward for reward, _, _ in said]))

    mixed = [(0.1, True, "a"), (0.4, False, "b"), (0.9, True, "c"), (-0.5, False, "d"), (-0.1, True, "e")]
    found = told(*mixed)
    assert found["signals_judged"] == 5
    assert found["signal_slope_lower"] < found["signal_slope"] < found["signal_slope_upper"]
    only_good = [(reward, True, rater) for reward, _, rater in mixed]
    of_one = [(reward, good, "a") for reward, good, _ in mixed]
    parted = [(reward, reward > 0, rater) for reward, _, rater in mixed]
    for said in (only_good, of_one, parted):
        assert told(*said) == {"signals_judged": 5.0}


def test_the_slope_is_that_of_plain_logistic_regression() -> None:
    rewards = torch.tensor([0.0, 1.0, 0.0, 1.0]).repeat_interleave(torch.tensor([30, 10, 10, 30]))
    good = torch.tensor([False, False, True, True]).repeat_interleave(torch.tensor([30, 10, 10, 30]))
    slope, lower, upper = signals.slope_interval(rewards, good, [str(number) for number in range(80)])
    assert slope == pytest.approx(2 * math.log(3), abs=1e-4)
    # Wald: variance 1/30 + 1/10 + 1/10 + 1/30; the sandwich of independent raters is that times 80 / 79
    assert (upper - lower) / 2 == pytest.approx(1.96 * math.sqrt((2 / 30 + 2 / 10) * 80 / 79), rel=1e-3)
