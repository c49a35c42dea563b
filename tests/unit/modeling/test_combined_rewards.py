"""Several rewards become one by a rule that is written down, and nothing buys an unsafe answer."""

import dataclasses
import json
import math
import pathlib
import random

import pytest

from trimtab.core import errors
from trimtab.modeling import combining

RULE = combining.Rule(
    (
        combining.Part("helpful", 1.0, centre=0.5, scale=2.0),
        combining.Part("tone", 0.5, centre=-1.0, scale=0.5),
        combining.Part("safe", 0.0, centre=1.0, scale=1.5),
    ),
    combining.Constraint("safe", threshold=0.25),
)


def scored(helpful: float, tone: float, safe: float) -> float:
    return RULE.score({"helpful": helpful, "tone": tone, "safe": safe})


def test_a_safe_answer_has_the_weighted_sum_of_standardised_rewards() -> None:
    assert scored(2.5, -0.5, 0.25) == pytest.approx((1.0 * 1.0 + 0.5 * 1.0) / 1.5)
    assert scored(0.5, -1.0, 9.0) == 0.0


def test_every_safe_answer_is_above_every_unsafe_one_and_the_safer_above_the_less_safe() -> None:
    rng = random.Random(1)
    drawn = [(rng.gauss(0, 50), rng.gauss(0, 50), rng.gauss(0.25, 2)) for _ in range(2000)]
    safe = [scored(*one) for one in drawn if one[2] >= 0.25]
    unsafe = sorted((one[2], scored(*one)) for one in drawn if one[2] < 0.25)
    assert min(safe) >= combining.FLOOR > max(score for _, score in unsafe)
    assert [score for _, score in unsafe] == sorted(score for _, score in unsafe)
    assert scored(1000.0, 1000.0, 0.25 - 3.0) == pytest.approx(combining.FLOOR - 2.0)


def test_a_part_that_is_no_number_makes_no_number() -> None:
    assert math.isnan(scored(math.nan, 0.0, 1.0)) and math.isnan(scored(0.0, 0.0, math.nan))


def test_deviations_add_in_quadrature_in_standardised_units() -> None:
    assert RULE.uncertainty({"helpful": 2.0, "tone": 1.0, "safe": 7.0}) == pytest.approx(math.hypot(1.0, 1.0) / 1.5)
    assert RULE.uncertainty({"helpful": None, "tone": 1.0, "safe": None}) == pytest.approx(1.0 / 1.5)
    assert RULE.uncertainty(dict.fromkeys(("helpful", "tone", "safe"))) is None


def test_a_rule_is_read_as_it_was_written(tmp_path: pathlib.Path) -> None:
    assert combining.load(tmp_path) is None
    for rule in (RULE, dataclasses.replace(RULE, safety=None)):
        combining.save(rule, tmp_path)
        assert combining.load(tmp_path) == rule


@pytest.mark.parametrize(
    "broken",
    [
        {"parts": [{"name": "a", "weight": 1, "centre": 0, "scale": 0}]},
        {"parts": [{"name": "a", "weight": 0, "centre": 0, "scale": 1}]},
        {"parts": [{"name": "a", "weight": 1, "centre": 0, "scale": 1}] * 2},
        {"parts": [{"name": "a", "weight": 1}]},
        {"parts": []},
        {
            "parts": [{"name": "a", "weight": 1, "centre": 0, "scale": 1}],
            "safety": {"name": "b", "threshold": 0},
        },
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(broken: object, tmp_path: pathlib.Path) -> None:
    (tmp_path / combining.COMBINATION_FILE).write_text(json.dumps(broken))
    with pytest.raises(errors.ArtifactCorrupt, match=r"combination\.json"):
        combining.load(tmp_path)
