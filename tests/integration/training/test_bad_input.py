"""What cannot be learned from is left out and counted by its reason, whatever the method: the run ends with the weights
of one that was never given it.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from tests.integration.training import making, short_runs

from trimtab.core import errors
from trimtab.trainer.steps import progress

torch.set_num_threads(1)
LONG = "red " * 200
WEIGHT, EMPTY, TOO_LONG = "weight that is no positive number", "empty text", "too long"
LONG_PROMPT: dict[str, Any] = {"prompt": making.prompt(LONG)}
NO_WEIGHTS: list[tuple[dict[str, Any], str]] = [({"weight": w}, WEIGHT) for w in (math.nan, math.inf, 0.0, -1.0)]
# An answer of nothing is a row in which no token is learned from; of a pair it may be either.
OF_ONE: list[tuple[dict[str, Any], str]] = [
    ({"response": ""}, EMPTY),
    ({"response": " \n\t"}, EMPTY),
    ({"response": LONG}, TOO_LONG),
    (LONG_PROMPT, TOO_LONG),
    *NO_WEIGHTS,
]
OF_TWO: list[tuple[dict[str, Any], str]] = [
    ({"chosen": ""}, EMPTY),
    ({"rejected": " \n\t"}, EMPTY),
    ({"chosen": LONG}, TOO_LONG),
    ({"rejected": LONG}, TOO_LONG),
    (LONG_PROMPT, TOO_LONG),
    ({}, "duplicate"),
    ({"chosen": "It is red.", "rejected": "It is red."}, "identical answers"),
    *NO_WEIGHTS,
]
STRENGTHS = [({"strength": s}, "strength outside 0 to 1") for s in (math.nan, 1.5)]
BAD: dict[str, list[tuple[dict[str, Any], str]]] = {
    "sft": OF_ONE,
    # a text that is longer than the context is cut into blocks
    "pretrain": [({"response": ""}, EMPTY), ({"response": " \n"}, EMPTY), *NO_WEIGHTS],
    "dpo": [*OF_TWO, *STRENGTHS, ({"tie": True}, "tie")],
    "kto": [
        *OF_ONE,
        ({}, "duplicate"),
        # a pair is taken apart into one answer of each class
        ({"kind": "pair", "chosen": "", "rejected": "Blue."}, EMPTY),
        ({"kind": "pair", "chosen": "Red.", "rejected": " \n\t"}, EMPTY),
        ({"kind": "pair", "chosen": "Red.", "rejected": "Red."}, "identical answers"),
        ({"kind": "pair", "chosen": "Red.", "rejected": "Blue.", "tie": True}, "tie"),
    ],
    "reward": [*OF_TWO, *STRENGTHS],
}


def reasons(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if name.startswith(("skipped: ", "dropped: "))}


def counted(expected: Sequence[str]) -> dict[str, float]:
    return {f"skipped: {reason}": float(expected.count(reason)) for reason in expected}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_learned_from_is_counted_and_changes_no_weight(
    name: str, folder_of_policy: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    rows, train = short_runs.ROWS[name], short_runs.TRAIN[name]
    bad = [dataclasses.replace(rows[0], id=f"bad{i}", **changes) for i, (changes, _) in enumerate(BAD[name])]
    found = []
    for number, given in enumerate((rows, [*rows, *bad])):
        (tmp_path / str(number)).mkdir()
        found.append(train(folder_of_policy, given, 1, progress.Progress(tmp_path / str(number))))
    assert reasons(found[0].figures) == {}
    assert reasons(found[1].figures) == counted([why for _, why in BAD[name]])
    for one, other in zip(found[0].model.parameters(), found[1].model.parameters(), strict=True):
        assert torch.isfinite(one).all() and torch.equal(one, other)


@pytest.mark.parametrize("name", ["sft", "pretrain", "dpo", "kto"])
def test_nothing_but_what_cannot_be_learned_from_is_refused(
    name: str, folder_of_policy: pathlib.Path, report: progress.Progress
) -> None:
    first = short_runs.ROWS[name][0]
    given = [changes for changes, why in BAD[name] if why != "duplicate"]
    bad = [dataclasses.replace(first, id=f"bad{i}", **changes) for i, changes in enumerate(given)]
    with pytest.raises(errors.InvalidField, match="holds no"):
        short_runs.TRAIN[name](folder_of_policy, bad, 1, report)


@pytest.mark.parametrize("name", ["kto", "reward"])
@pytest.mark.parametrize("up", [True, False])
def test_a_batch_of_one_class_is_a_step_like_any_other(
    name: str, up: bool, folder_of_policy: pathlib.Path, report: progress.Progress
) -> None:
    """Of 24 votes only one is of the other class: most batches are without it, whatever the order."""
    rows = [dataclasses.replace(one, up=up) for one in short_runs.ROWS["kto"]]
    rows[5] = dataclasses.replace(rows[5], up=not up)
    found = short_runs.TRAIN[name](folder_of_policy, rows, 1, report)
    assert all(torch.isfinite(weight).all() for weight in found.model.parameters())
    assert found.figures.get("steps_skipped", 0.0) == 0.0
