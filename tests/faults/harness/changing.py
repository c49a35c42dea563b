"""Consumers that are otherwise than those of the platform: slow ones, and ones of the version after this one.

Made at the very start of a process (`process`), before it has a consumer.
"""

import dataclasses
import pathlib
import time
from typing import Any

from trimtab.bus import runner
from trimtab.core import feedback
from trimtab.wire import schemas


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
