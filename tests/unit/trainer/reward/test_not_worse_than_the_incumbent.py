"""Equally good models pass the gate against the incumbent, those that forgot do not, and more examples help both."""

import random

import pytest

from trimtab.trainer.reward import incumbents, labels, material


def refused(examples: int, worse_by: float, margin: float, seeds: float = 0.0, rounds: int = 1000) -> float:
    """Share of candidates that are refused. seeds: standard deviation of the true difference between trainings."""
    rng = random.Random(3)
    items = [material.Item(labels.Thumb("x", True), (), rater=f"r{number}") for number in range(examples)]
    count = 0
    for _ in range(rounds):
        truly = rng.gauss(worse_by, seeds)
        gaps = [(item, rng.gauss(truly, 0.2)) for item in items]
        count += not incumbents.not_worse(gaps, margin).passed
    return count / rounds


@pytest.mark.parametrize(
    ("examples", "worse_by", "seeds", "strict", "with_margin"),
    [(100, 0.0, 0.0, 0.025, 0.007), (400, 0.03, 0.0, 0.851, 0.516), (400, 0.05, 0.0, 0.999, 0.979)],
)
def test_the_rates_of_the_decision_are_those_of_the_gate(
    examples: int, worse_by: float, seeds: float, strict: float, with_margin: float
) -> None:
    assert refused(examples, worse_by, 0.0, seeds, 400) == pytest.approx(strict, abs=0.06)
    assert refused(examples, worse_by, 0.01, seeds, 400) == pytest.approx(with_margin, abs=0.06)


def test_a_margin_keeps_what_many_examples_show_and_nobody_would_notice() -> None:
    assert refused(4000, 0.003, 0.0, rounds=60) < 0.5
    assert refused(4000, 0.009, 0.0, rounds=60) > 0.6
    assert refused(4000, 0.009, 0.01, rounds=60) < 0.05
