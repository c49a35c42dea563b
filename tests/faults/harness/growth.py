"""Whether processes grow while they live: their memory and descriptors, looked at every few seconds.

`Watch` takes the samples, `growth` judges one life of one process by them. Pure but for `Watch`.
"""

import contextlib
import dataclasses
import itertools
import statistics
import threading
import time
from collections.abc import Mapping, Sequence

from tests.faults.harness import subjects

MOST_MIB_PER_MIN = 1.0
# Caches and pools take a handful; one that is lost at every fault shows as more.
MOST_DESCRIPTORS = 4.0
_EVERY_S = 2.0
# Of a line through them: more say no more.
_POINTS = 300


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """at: seconds of the monotonic clock."""

    at: float
    rss_mib: float
    descriptors: int


@dataclasses.dataclass(frozen=True, slots=True)
class Growth:
    """Of one life after its warm-up. minutes: of that; more_descriptors: at its end than at its beginning."""

    name: str
    minutes: float
    rss_mib: float
    mib_per_min: float
    more_descriptors: float

    @property
    def steady(self) -> bool:
        return self.mib_per_min < MOST_MIB_PER_MIN and self.more_descriptors <= MOST_DESCRIPTORS


def growth(name: str, life: Sequence[Sample], warm_up_s: float, least_s: float) -> Growth | None:
    """None for a life that was too short to say anything."""
    warm = [one for one in life if one.at - life[0].at >= warm_up_s]
    if len(warm) < 4 or warm[-1].at - warm[0].at < least_s:
        return None
    quarter = len(warm) // 4
    first, last = (statistics.median(one.descriptors for one in part) for part in (warm[:quarter], warm[-quarter:]))
    return Growth(
        name=name,
        minutes=(warm[-1].at - warm[0].at) / 60,
        rss_mib=warm[-1].rss_mib,
        mib_per_min=60 * slope([(one.at, one.rss_mib) for one in warm]),
        more_descriptors=last - first,
    )


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Theil and Sen's: the median of the slopes between any two points. Up to 29 % of them may be anywhere."""
    thinned = points[:: max(1, len(points) // _POINTS)]
    return statistics.median(
        (late[1] - early[1]) / (late[0] - early[0]) for early, late in itertools.combinations(thinned, 2)
    )


class Watch:
    """Samples processes from a thread of its own for as long as the context lasts. lives: by name and process id."""

    def __init__(self, watched: Sequence[subjects.Subject]) -> None:
        self.lives: dict[tuple[str, int], list[Sample]] = {}
        self._watched = watched
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def now(self) -> Mapping[str, Sample]:
        """The newest sample of each process."""
        return {name: life[-1] for (name, _), life in self.lives.copy().items()}

    def _run(self) -> None:
        while not self._over.wait(_EVERY_S):
            for one in self._watched:
                with contextlib.suppress(OSError, ValueError):  # it is gone, and not yet started again
                    sample = Sample(time.monotonic(), one.rss_mib(), one.descriptors())
                    self.lives.setdefault((one.name, one.pid), []).append(sample)
