"""A training job as the trainer starts it, but for what lies in a folder beside: where it dies, once. It saves after
every step, waits seconds for a reward service where a real one waits minutes, and may be of a wrong design.

    python -m tests.faults.harness.job RUN_FOLDER
"""

import contextlib
import functools
import os
import pathlib
import sys

from tests.faults.harness import process

from trimtab.core import failpoints

STEERING = "HARNESS_JOBS"
# Where the next job is to die; and a line for each job that was started: its process and where it was to die.
_DIES_AT, _STARTS = "dies-at", "starts"
# For the service to be there, and for its answer: the first takes as long as it needs to load its model.
_READY_S, _ANSWER_S = 3.0, 15.0


class Steering:
    """The folder, as a row of the harness uses it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        folder.mkdir()

    def interpreter(self) -> pathlib.Path:
        """What a trainer takes for its Python."""
        program = self._folder / "python"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.faults.harness.job "$3"\n')
        program.chmod(0o755)
        return program

    @property
    def environment(self) -> dict[str, str]:
        return {STEERING: str(self._folder)}

    def die_at(self, point: str) -> None:
        """Of the next job that is started."""
        (self._folder / _DIES_AT).write_text(point)

    def starts(self) -> list[tuple[int, str]]:
        path = self._folder / _STARTS
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(pid), point) for pid, _, point in (line.partition(" ") for line in lines)]


def main() -> None:
    folder = pathlib.Path(os.environ[STEERING])
    point = ""
    with contextlib.suppress(FileNotFoundError):
        point = (folder / _DIES_AT).read_text()
        (folder / _DIES_AT).unlink()
    with (folder / _STARTS).open("a") as starts:
        starts.write(f"{os.getpid()} {point}\n")
    if point:
        failpoints.arm(point)
    from trimtab.trainer import launch
    from trimtab.trainer.methods import elsewhere, remote_scores
    from trimtab.trainer.steps import checkpoints

    checkpoints.EVERY_S, checkpoints.SHARE = 0.0, float("inf")
    elsewhere.Door = functools.partial(elsewhere.Door, ready_s=_READY_S)  # type: ignore[assignment, misc]
    remote_scores.RewardService = functools.partial(  # type: ignore[assignment, misc]
        remote_scores.RewardService, timeout_s=_ANSWER_S
    )
    if name := os.environ.get(process.MUTANT):
        from tests.faults.harness import wrong_training

        if wrong_training.ALL[name].program == "job":
            wrong_training.ALL[name].make()
    launch.main()


if __name__ == "__main__":
    main()
