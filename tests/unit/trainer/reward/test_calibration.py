"""Calibration figures have the values of plain arithmetic, and the slope is that of a known exaggeration."""

import math

import pytest
import torch

from trimtab.modeling import answers
from trimtab.trainer.reward import calibration, labels, material

torch.set_num_threads(1)


def drawn(slope: float, count: int = 20_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and what happens with probability sigma(slope logit)."""
    generator = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(count, generator=generator, dtype=torch.float64)
    return logits, torch.rand(count, generator=generator, dtype=torch.float64) < (slope * logits).sigmoid()


@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0])
def test_the_slope_tells_by_how_much_the_logits_exaggerate(slope: float) -> None:
    assert calibration.calibration_slope(*drawn(slope)) == pytest.approx(slope, abs=0.08)


def test_brier_and_calibration_error_are_plain_arithmetic() -> None:
    logits = torch.tensor([0.8, 0.8, 0.3, 0.3], dtype=torch.float64).logit()
    found = calibration.of_logits(logits, torch.tensor([True, False, True, False]))
    assert found["brier"] == pytest.approx((0.04 + 0.64 + 0.49 + 0.09) / 4, abs=1e-12)
    assert found["calibration_error"] == pytest.approx((0.6 + 0.4) / 4, abs=1e-12)


def test_margin_buckets_count_what_went_as_favoured() -> None:
    logits = torch.tensor([0.1, -0.2, 0.7, 1.5, -3.0, 3.0])
    found = calibration.of_logits(logits, torch.tensor([True, True, True, False, False, True]))
    assert found["margin_0_to_0.5_count"] == 2 and found["margin_0_to_0.5_right"] == 0.5
    assert found["margin_0.5_to_1_right"] == 1.0 and found["margin_1_to_2_right"] == 0.0
    assert found["margin_above_2_count"] == 2 and found["margin_above_2_right"] == 1.0
    assert found["margin_above_2_expected"] == pytest.approx(1 / (1 + math.exp(-3.0)), abs=1e-6)


def test_no_slope_where_everything_went_as_favoured() -> None:
    logits = torch.ones(50)
    assert "calibration_slope" not in calibration.of_logits(logits, torch.ones(50, dtype=torch.bool))


def test_the_latest_share_is_by_time_and_unknown_times_are_the_earliest() -> None:
    answer = answers.Answer((1,), (2,))
    items = [
        material.Item(labels.Thumb(f"t{at}", True), (answer,), occurred_at=at) for at in (5.0, 0.0, 9.0, 7.0, 8.0, 0.0)
    ]
    earlier, latest = material.latest(material.Feedback(tuple(items)), 0.34)
    assert [item.occurred_at for item in latest.items] == [9.0, 8.0]
    assert [item.occurred_at for item in earlier.items] == [5.0, 0.0, 7.0, 0.0]
    assert material.latest(material.Feedback(tuple(items)), 0.0)[1] == material.Feedback()


def test_what_a_model_cannot_foresee_is_left_out() -> None:
    def feedback(*said: labels.Label) -> material.Feedback:
        return material.Feedback(tuple(material.Item(label, ()) for label in said))

    seen = feedback(labels.Pair("a", "b"), labels.Rating("a", 2, 5), labels.Ranking(("a", "b", "c"), (1, 1, 3)))
    new = feedback(
        labels.Pair("c", "d"),
        labels.Pair("c", "d", tie=True),
        labels.Thumb("c", True),
        labels.Rating("c", 5, 5),
        labels.Rating("c", 5, 10),
        labels.Ranking(("c", "d"), (1, 2)),
        labels.Ranking(("c", "d", "e"), (1, 1, 1)),
    )
    kept = material.foreseen(new, seen)
    assert [item.label for item in kept.items] == [new.items[i].label for i in (0, 3, 5)]
