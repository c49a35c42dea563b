"""What the tests build or fetch once and keep, in the user's cache."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator


def folder(*names: str) -> pathlib.Path:
    """Made where it is not there yet. names: of the folders in it, one in the other."""
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    made = home.joinpath("trimtab", *names)
    made.mkdir(parents=True, exist_ok=True)
    return made


@contextlib.contextmanager
def alone(lock: pathlib.Path) -> Iterator[None]:
    """What is made once is made by one process, and others wait for it."""
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
