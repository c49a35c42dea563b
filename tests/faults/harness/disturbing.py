"""What a process is made to do or to be otherwise than on the platform. Called at the very start of one (`process`)."""

import dataclasses
import math
import os
import pathlib
import signal
import time
from typing import Any

from trimtab.bus import runner
from trimtab.core import failpoints, feedback
from trimtab.wire import schemas


def pause_at(file: pathlib.Path) -> None:
    """It stands still at the failpoint that the file names, once: the file is gone then."""
    reach = failpoints.reach

    def reached(name: str) -> None:
        reach(name)
        if file.exists() and file.read_text() == name:
            file.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)
            # which takes a moment to reach every thread, this one too
            time.sleep(0.5)

    failpoints.reach = reached


def say_nan(file: pathlib.Path) -> None:
    """While the file is there a reward service gives NaN for every n-th answer, n as the file says; another file beside
    it has a line for each."""
    from trimtab.core import scoring
    from trimtab.reward import shelf

    take = shelf.Shelf.take

    class Disturbed:
        def __init__(self, model: shelf.RewardModel) -> None:
            self._model = model

        def score(self, items: list[scoring.ScoreItem], batch: int) -> list[scoring.Score]:
            given = self._model.score(items, batch)
            if not file.exists():
                return given
            nth = int(file.read_text())
            with file.with_suffix(".given").open("a") as told:
                told.write("nan\n" * len(given[::nth]))
            return [scoring.Score(math.nan) if place % nth == 0 else one for place, one in enumerate(given)]

    def taken(self: shelf.Shelf, model_id: str) -> shelf.Loaded:
        loaded = take(self, model_id)
        return shelf.Loaded(Disturbed(loaded.model), loaded.digest)  # type: ignore[arg-type]

    shelf.Shelf.take = taken  # type: ignore[method-assign]


def slow_down(file: pathlib.Path) -> None:
    """From now on each record costs its consumer so many seconds more as the file says when its turn comes."""
    commit = runner.Runner._commit

    def commit_slowly(self: runner.Runner, records: list[Any], letters: Any) -> None:
        for _ in records:
            time.sleep(float(file.read_text()))
        commit(self, records, letters)

    runner.Runner._commit = commit_slowly


def read_next_version() -> None:
    """From now on feedback of the version after this one is read as this one."""
    known = schemas._SCHEMAS[feedback.FeedbackEvent]
    schemas._SCHEMAS[feedback.FeedbackEvent] = dataclasses.replace(known, version=known.version + 1)
