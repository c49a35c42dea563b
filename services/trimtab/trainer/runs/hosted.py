"""A job that runs on another machine: offered in its run folder, taken up by a host (`trainer.host`).

For `trainer.runs.worker` in place of `jobs.Child`. The job outlives a trainer that ends, and the next one finds it.
"""

import pathlib
import time

from trimtab.trainer import launch, offers
from trimtab.trainer.runs import jobs

_LOOK_S = 0.2


class Hosted:
    """A `jobs.Job`. processes: that train together."""

    def __init__(self, folder: jobs.RunFolder, processes: int = 1) -> None:
        self._path = folder.path
        self._offer = offers.make(folder.path, processes)

    def waits_for(self) -> str:
        nobody_has_it = _free(self._path / offers.HOST_LOCK)
        return "It waits for a host: `python -m trimtab.trainer.host`." if nobody_has_it else ""

    def wait(self, timeout_s: float) -> int | None:
        deadline = time.monotonic() + timeout_s
        while True:
            last = offers.ended(self._path)
            if last is not None and last.start == self._offer.start:
                return last.exit_code
            if (left := deadline - time.monotonic()) <= 0:
                return None
            time.sleep(min(_LOOK_S, left))

    def end(self, grace_s: float) -> None:
        offers.withdraw(self._path)
        for lock in (offers.HOST_LOCK, launch.LOCK_FILE):  # whoever takes the first from now on finds no offer
            while not _free(self._path / lock):
                time.sleep(_LOOK_S)

    def leave(self, grace_s: float) -> None:
        """It goes on."""

    def close(self) -> None:
        if offers.waiting(self._path) is None:
            offers.withdraw(self._path)


def _free(lock: pathlib.Path) -> bool:
    with offers.taken(lock) as mine:
        return mine
