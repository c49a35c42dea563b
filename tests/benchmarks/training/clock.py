"""How both sides are timed: the end of every step, and the memory of the process. Standard library only.

A run has as many warm-up steps as it has measured ones or fewer, both whole passes over the same data, so that the two
sides compute on the same tokens between the first and the last measured moment.
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
        self._begun = (0.0, 0.0)

    def begin(self) -> None:
        """Models and data are loaded; training begins."""
        fields = pathlib.Path("/proc/self/statm").read_text().split()
        self._resident_before = int(fields[1]) * resource.getpagesize()
        self._begun = _now()

    def step(self) -> None:
        self._ends.append(_now())

    def told(self, warm_up: int, **figures: float) -> str:
        """One line of JSON: seconds (on the clock, and of the processor) of the steps after the warm-up, and peak memory.

        Memory is in bytes.
        """
        first, last = self._ends[warm_up - 1], self._ends[-1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return json.dumps(
            {
                "steps": len(self._ends) - warm_up,
                "seconds": last[0] - first[0],
                "cpu_seconds": last[1] - first[1],
                "first_step": self._ends[0][0] - self._begun[0],
                "peak": peak,
                "peak_of_training": peak - self._resident_before,
                **figures,
            }
        )


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
