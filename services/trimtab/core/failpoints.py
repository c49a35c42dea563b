"""Places where a test may kill this process, to show what a crash there leaves behind.

    TRIMTAB_FAILPOINT=registry.publish.before_manifest   SIGKILL where that place is reached first
    TRIMTAB_FAILPOINT=bus.write.before_commit:3          SIGKILL where it is reached for the third time

Called between writes, fsyncs, renames and publishes, wherever a crash must lose and double nothing. `tests/faults`
collects the names from the source and walks every one of them. A process that is told nothing pays for a call.
"""

import os
import signal

VARIABLE = "TRIMTAB_FAILPOINT"

# By name: how many more times the place is reached until the process dies there.
_armed: dict[str, int] = {}


def arm(wanted: str) -> None:
    """Kills this process where the named place is reached: "NAME" for the first time, "NAME:3" for the third."""
    name, _, nth = wanted.partition(":")
    _armed[name] = int(nth or 1)


def reach(name: str) -> None:
    """Says that the process has come to this place."""
    if _armed and name in _armed:
        _armed[name] -= 1
        if not _armed[name]:
            os.kill(os.getpid(), signal.SIGKILL)


if os.environ.get(VARIABLE):
    arm(os.environ[VARIABLE])
