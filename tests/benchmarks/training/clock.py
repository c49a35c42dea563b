"""How both sides are timed: the end of every step, and the memory of the process. Standard library only.

The first passes over the data (on-policy: steps) are warm-up, the others are measured, so between the first and the
last measured moment the two sides compute on the same tokens.
"""

import json
import pathlib
import resource
import time


class Clock:
    """Of one run in one process."""

    def __init__(self) -> None:
        self._ends: list[tuple[float, float]] = []
        self._resident_before = 0
        self._begun = self._phase = (0.0, 0.0)

    def begin(self) -> None:
        """Models and data are loaded; training begins."""
        fields = pathlib.Path("/proc/self/statm").read_text().split()
        self._resident_before = int(fields[1]) * resource.getpagesize()
        self._begun = self._phase = _now()

    def phase(self) -> None:
        """What came before was preparation."""
        self._ends, self._phase = [], _now()

    def step(self) -> None:
        self._ends.append(_now())

    def told(self, warm_up: int) -> str:
        """JSON about the steps after `warm_up`: seconds on the clock and of the processor, bytes at peak."""
        (wall, cpu), (last_wall, last_cpu) = self._ends[warm_up - 1], self._ends[-1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        figures = {
            "steps": len(self._ends) - warm_up,
            "seconds": last_wall - wall,
            "cpu_seconds": last_cpu - cpu,
            "preparation_seconds": self._phase[0] - self._begun[0],
            "preparation_cpu_seconds": self._phase[1] - self._begun[1],
            "peak": peak,
            "peak_of_training": peak - self._resident_before,
        }
        return json.dumps(figures)


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
