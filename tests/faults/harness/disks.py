"""Disks that are full. Needs root: a small disk is a file system in memory."""

import contextlib
import pathlib
import subprocess
from collections.abc import Iterator

from tests.faults.harness import subjects


@contextlib.contextmanager
def small(where: pathlib.Path, mib: int) -> Iterator[pathlib.Path]:
    """A new folder with so much space, and nothing on it afterwards."""
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(where)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        raise subjects.Failed(f"No small disk could be mounted ({mounted.stderr.strip()}); this row needs root.")
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


def fill(file: pathlib.Path) -> None:
    """Writes until there is no space left."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))
