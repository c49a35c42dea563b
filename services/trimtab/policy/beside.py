"""The server that generates for this policy process: one that it starts itself, or one that is found at an address.

Called by `policy.remote`, built by `policy.app`.
"""

import contextlib
import os
import pathlib
import shlex
import subprocess
from collections.abc import Iterator

import psutil

from trimtab.core import errors
from trimtab.rpc import ports

_END_S = 10.0


class Found:
    """A server that somebody else starts on this machine, as another container of a pod does."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def running(self, folder: pathlib.Path, model_id: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def check(self) -> None:
        """Nothing of its end is known here: who starts it starts it again."""


class Started:
    """A server of this process's own: started on the folder that was verified, ended with the process.

    command: that starts it, with {folder}, {port} and, where it is told, {model_id}.
    """

    def __init__(self, command: str) -> None:
        self._command = shlex.split(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._below: list[psutil.Process] = []
        self._port = ports.free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    @contextlib.contextmanager
    def running(self, folder: pathlib.Path, model_id: str) -> Iterator[None]:
        """For as long as the context lasts; its output goes where this process's goes. InvalidField: no such thing."""
        place, port = str(folder.resolve()), str(self._port)
        words = [
            one.replace("{folder}", place).replace("{port}", port).replace("{model_id}", model_id)
            for one in self._command
        ]
        try:
            # in the process group of this process: whoever ends that one ends this one, however it ended itself
            process = subprocess.Popen(words, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        except OSError as problem:
            raise errors.InvalidField(
                "engine_command", f"cannot be started ({problem})", "name the command of a server"
            ) from problem
        self._process = process
        try:
            yield
        finally:
            self._look()
            process.terminate()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for one in self._below:  # a vLLM that is killed leaves its engine and workers running
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()

    def _look(self) -> None:
        """Which processes it has started, as long as it can be asked for them."""
        with contextlib.suppress(psutil.NoSuchProcess):
            if self._process is not None and self._process.poll() is None:
                self._below = psutil.Process(self._process.pid).children(recursive=True)

    def check(self) -> None:
        """WrongState once it has ended."""
        self._look()
        code = None if self._process is None else self._process.poll()
        if code is not None:
            raise errors.WrongState(
                f"The engine of this policy ended with {f'exit code {code}' if code >= 0 else f'signal {-code}'}; "
                f"what it said is above. It was started by `{shlex.join(self._command)}`."
            )
