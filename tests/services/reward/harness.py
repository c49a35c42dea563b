"""A reward service as a process of its own."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.services.reward.conftest import Installation

START_S = 60.0


@contextlib.contextmanager
def started(installation: Installation) -> Iterator[str]:
    """Its address; killed at the end."""
    place, log = installation.folder / "reward-address", installation.folder / "reward.log"
    flags = [part for name, value in installation.flags().items() for part in (f"--{name.replace('_', '-')}", value)]
    process = subprocess.Popen(
        [sys.executable, "-m", "trimtab.cli.app", "reward", *flags, "--address-file", str(place)],
        stderr=log.open("ab"),
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    try:
        deadline = time.monotonic() + START_S
        while not place.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "the reward service does not listen"
            time.sleep(0.02)
        yield place.read_text()
    finally:
        process.kill()
        process.wait()
        place.unlink(missing_ok=True)
