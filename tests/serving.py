"""HTTP servers that tests start: real processes, awaited, and ended with all that they have started."""

import contextlib
import os
import pathlib
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence

from tests import timing

_TOLD_AT_THE_END = 4000


@contextlib.contextmanager
def serving(
    command: Sequence[str],
    url: str,
    log: pathlib.Path,
    *,
    environment: Mapping[str, str] | None = None,
    within_s: float = timing.PATIENCE_S,
    ends_within_s: float = 0.0,
) -> Iterator[None]:
    """A server that answers at `url`, if only that it refuses; what it says is in `log`. ends_within_s: how long it is
    waited for at the end, before it and all that it has started are killed."""
    with log.open("ab") as written:
        process = subprocess.Popen(
            command, env=os.environ | dict(environment or {}), stdout=written, stderr=written, start_new_session=True
        )
    try:
        timing.until(lambda: _answers(url, process, log), command[0], within_s)
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ends_within_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str, process: subprocess.Popen[bytes], log: pathlib.Path) -> bool:
    assert process.poll() is None, log.read_text()[-_TOLD_AT_THE_END:]
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError as answer:
        return answer.code < 500
    except OSError:
        return False
    return True
