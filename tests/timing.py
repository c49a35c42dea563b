"""How late an answer may come on a machine that has other things to do, and waiting for what comes late."""

import time
from collections.abc import Callable

SLACK_S = 4.0  # beyond a deadline; a client that has none waits for minutes
PATIENCE_S = 60.0  # until what has to come is given up; what comes sooner costs nothing
_LOOK_S = 0.05


def until(holds: Callable[[], bool], what: str = "it", within_s: float = PATIENCE_S) -> float:
    """Returns how many seconds it took to hold; fails when it does not in time. what: is waited for."""
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < within_s, f"{what} did not come within {within_s:.0f} s"
        time.sleep(_LOOK_S)
    return time.monotonic() - begun
