"""The fence before publishing: per line, the highest generation that has published.

A trainer that lost its lease and does not know it holds a lower generation than its successor. Checked and set under a
file lock where the registry is a local folder; elsewhere check and set are two steps, and the lease alone keeps two
writers apart between them. Used by `registry.store` only.
"""

import contextlib
import pathlib
import time
from collections.abc import Iterator

import fsspec
from fsspec.implementations import local

from trimtab.core import errors, files

# A turn takes milliseconds; who holds it longer is paused.
_TURN_WITHIN_S = 10.0
_LOOK_S = 0.01


class Fence:
    def __init__(self, files: fsspec.AbstractFileSystem, root: str) -> None:
        self._files = files
        self._root = root

    def admit(self, tenant: str, line: str, generation: int) -> None:
        """As `passing`, before anything is done."""
        with self.passing(tenant, line, generation):
            return

    @contextlib.contextmanager
    def passing(self, tenant: str, line: str, generation: int) -> Iterator[None]:
        """Admits a writer of this generation and remembers it; StaleGeneration when a newer one has published.

        No other one is admitted meanwhile, so nothing slow belongs in the block; ServiceUnavailable when somebody
        else's block does not end. Generation 0 is an operator's own act, and passes.
        """
        folder = f"{self._root}/{_name('tenant', tenant)}"
        path = f"{folder}/{_name('line', line)}"
        if generation == 0:
            yield
            return
        self._files.makedirs(folder, exist_ok=True)
        with self._locked(path):
            seen = int(self._files.cat_file(path)) if self._files.exists(path) else 0
            if generation < seen:
                raise errors.StaleGeneration(held=generation, seen=seen)
            if generation > seen:
                self._write(path, generation)
            yield

    @contextlib.contextmanager
    def _locked(self, path: str) -> Iterator[None]:
        if not isinstance(self._files, local.LocalFileSystem):
            yield
            return
        with pathlib.Path(f"{path}.lock").open("w") as lock:
            deadline = time.monotonic() + _TURN_WITHIN_S
            while not files.lock_now(lock):
                if time.monotonic() > deadline:
                    raise errors.ServiceUnavailable(
                        f"Another process has been publishing under {path} for {_TURN_WITHIN_S:.0f} s; it is paused or "
                        "its disk hangs: let it go on or end it."
                    )
                time.sleep(_LOOK_S)
            yield

    def _write(self, path: str, generation: int) -> None:
        if not isinstance(self._files, local.LocalFileSystem):
            self._files.pipe_file(path, str(generation).encode())
            return
        files.replace(pathlib.Path(path), str(generation))


def _name(field: str, text: str) -> str:
    if not text or text.startswith(".") or "/" in text or "\\" in text:
        raise errors.InvalidField(field, f"is {text!r}", "use a name without slashes that does not start with a dot")
    return text
