"""A training job that waits in its run folder for whoever has the machine for it: what the trainer and a host share.

    offered.json    by the trainer: which start of the job this is, in how many processes; gone when it is not wanted
    ended.json      by the host: that start, and its exit code
    host.lock       held by the host that has the job, while it lives

`trainer.runs.hosted` offers, `trainer.host` takes up. The folder is on a volume that both see, at the same path.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator

from trimtab.core import errors, files

OFFERED, ENDED, HOST_LOCK = "offered.json", "ended.json", "host.lock"


@dataclasses.dataclass(frozen=True, slots=True)
class Offer:
    """start: 1 for the first start of the run's job, one more for each that follows an end."""

    start: int
    processes: int


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    start: int
    exit_code: int


def make(folder: pathlib.Path, processes: int) -> Offer:
    """The offer that stands, whoever made it; or a new one."""
    standing = offered(folder)
    if standing is not None:
        return standing
    last = ended(folder)
    offer = Offer(1 if last is None else last.start + 1, processes)
    files.replace(folder / OFFERED, json.dumps(dataclasses.asdict(offer)))
    return offer


def offered(folder: pathlib.Path) -> Offer | None:
    fields = _fields(folder / OFFERED)
    return Offer(fields["start"], fields["processes"]) if fields else None


def ended(folder: pathlib.Path) -> End | None:
    """How the last start ended that did."""
    fields = _fields(folder / ENDED)
    return End(fields["start"], fields["exit_code"]) if fields else None


def waiting(folder: pathlib.Path) -> Offer | None:
    """The offer that stands and has not ended."""
    offer, end = offered(folder), ended(folder)
    return offer if offer is not None and (end is None or end.start < offer.start) else None


def withdraw(folder: pathlib.Path) -> None:
    (folder / OFFERED).unlink(missing_ok=True)


def end(folder: pathlib.Path, offer: Offer, exit_code: int) -> None:
    files.replace(folder / ENDED, json.dumps(dataclasses.asdict(End(offer.start, exit_code))))


@contextlib.contextmanager
def taken(path: pathlib.Path) -> Iterator[bool]:
    """Whether the lock file is ours, while the block lasts."""
    with path.open("a") as lock:
        yield files.lock_now(lock)


def _fields(path: pathlib.Path) -> dict[str, int]:
    """Empty when there is no such file. ArtifactCorrupt when it is none of ours."""
    try:
        return {name: int(value) for name, value in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as problem:
        raise errors.ArtifactCorrupt(f"{path} cannot be read: {problem!r}.") from problem
