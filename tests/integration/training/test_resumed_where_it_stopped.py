"""A run that was killed goes on with the batch that was under way: no record is dropped and none is learned from twice.

Runs that resume elsewhere are planted, and each is told apart from one that was never killed.
"""

import dataclasses
import json
import math
import pathlib
import shutil
from collections.abc import Callable

import pytest
import torch
from tests.integration.training import short_runs

from trimtab.trainer.steps import checkpoints, progress

torch.set_num_threads(1)
# A run dies in the third step of its first epoch.
_DIES_AT = 3
SEED = 1
REFERENCE = "reference log-probabilities"


class Caught(AssertionError):
    """A resumed run is not the run it was."""


class Killed(Exception):
    pass


class Dying(progress.Progress):
    """Saves after every step, and dies at the end of one, before it is told; 0: never."""

    def __init__(self, folder: pathlib.Path, dies_at: int = 0) -> None:
        super().__init__(folder, checkpoints.Checkpoints(folder, b"a record", {}))
        self._dies_at, self._left = dies_at, dies_at

    def begin(self, phase: str, steps: int, carried: checkpoints.Carried | None = None) -> int:
        self._left = 0 if phase == REFERENCE else self._dies_at
        return super().begin(phase, steps, carried)

    def step(self, figures: dict[str, float]) -> None:
        self._left -= 1
        if self._left == 0:
            raise Killed
        super().step(figures)


@dataclasses.dataclass(frozen=True, slots=True)
class Resumed:
    """Where a resumed run begins, as the steps that it takes for done, and the seed of its order."""

    done: int = _DIES_AT - 1
    seed: int = SEED


FAULTS = {
    "skips the batch under way": Resumed(done=_DIES_AT),
    "begins with the next epoch": Resumed(done=short_runs.STEPS_OF_AN_EPOCH),
    "takes the last batch again": Resumed(done=_DIES_AT - 2),
    "begins its epoch anew": Resumed(done=0),
    "draws another order": Resumed(seed=SEED + 1),
}


def told(folder: pathlib.Path) -> list[str]:
    return (folder / progress.METRICS_FILE).read_text().splitlines()


@pytest.fixture(scope="module", params=short_runs.TRAIN)
def runs(
    request: pytest.FixtureRequest, folder_of_policy: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Resumed, pathlib.Path], None]:
    """A check of one way to resume a killed run of a method: Caught unless it ends as the whole run did."""
    train, rows = short_runs.TRAIN[request.param], short_runs.ROWS[request.param]
    scratch = tmp_path_factory.mktemp("runs")

    def weights(seed: int, report: progress.Progress) -> list[torch.Tensor]:
        return list(train(folder_of_policy, rows, seed, report).model.parameters())

    with pytest.MonkeyPatch.context() as eager:
        eager.setattr(checkpoints, "EVERY_S", 0.0)
        eager.setattr(checkpoints, "SHARE", math.inf)
        for name in ("whole", "killed"):
            (scratch / name).mkdir()
        whole = weights(SEED, Dying(scratch / "whole"))
        with pytest.raises(Killed):
            weights(SEED, Dying(scratch / "killed", _DIES_AT))

    def check(resumed: Resumed, folder: pathlib.Path) -> None:
        shutil.copytree(scratch / "killed", folder)
        newest = max((folder / checkpoints.FOLDER).glob("*.json"))
        document = json.loads(newest.read_text())
        assert (document["step"], document["steps"]) == (_DIES_AT - 1, 2 * short_runs.STEPS_OF_AN_EPOCH)
        newest.write_text(json.dumps({**document, "step": resumed.done}))
        found = weights(resumed.seed, Dying(folder))
        if not all(map(torch.equal, whole, found)) or told(folder) != told(scratch / "whole"):
            raise Caught

    return check


def test_a_resumed_run_goes_on_with_the_batch_under_way(
    runs: Callable[[Resumed, pathlib.Path], None], tmp_path: pathlib.Path
) -> None:
    runs(Resumed(), tmp_path / "resumed")


@pytest.mark.parametrize("fault", FAULTS)
def test_one_that_drops_records_or_learns_from_them_twice_is_caught(
    fault: str, runs: Callable[[Resumed, pathlib.Path], None], tmp_path: pathlib.Path
) -> None:
    with pytest.raises(Caught):
        runs(FAULTS[fault], tmp_path / "resumed")
