"""Files that a crash leaves whole: their old content or the new one, never a part, and durable once written."""

import fcntl
import hashlib
import os
import pathlib
from typing import IO, Any

from trimtab.core import failpoints


def replace(path: pathlib.Path, content: str | bytes) -> None:
    """Gives a file this content. For one writer of the file at a time."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    settle(temporary, path)


def settle(temporary: pathlib.Path, final: pathlib.Path) -> None:
    """Makes a finished file, in the same folder, durable under its final name."""
    failpoints.reach("files.settle.before_fsync")
    sync(temporary)
    failpoints.reach("files.settle.before_rename")
    temporary.replace(final)
    failpoints.reach("files.settle.before_folder_fsync")
    sync(final.parent)


def digest(path: pathlib.Path) -> str:
    """sha256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lock_now(file: IO[Any]) -> bool:
    """Whether the lock on an open file is ours from now on; False when another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync(path: pathlib.Path) -> None:
    """Makes what was written to a file, or into a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
