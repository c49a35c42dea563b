"""`trimtab up` in a process of its own, and what of it can be killed."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import httpx
from tests.faults.storm import world

from trimtab.cli.machine import platform
from trimtab.rollout import processes
from trimtab.rpc import ports
from trimtab.trainer.runs import jobs

_READY_S = 180.0
SUPERVISOR, JOB = "supervisor", "training job"


class Host:
    """One state folder, and the platform that runs on it."""

    def __init__(self, state: pathlib.Path) -> None:
        self.layout = platform.Layout(state)
        self.layout.state.mkdir(parents=True)
        self._port = ports.free_port()
        self.base_url = f"http://127.0.0.1:{self._port}"
        self._up: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once the gateway and every process behind it answer."""
        self.layout.facts.unlink(missing_ok=True)  # what a killed one has left
        command = (
            sys.executable,
            "-m",
            "trimtab.cli.app",
            "up",
            "--line",
            world.LINE,
            "--port",
            str(self._port),
            "--grpc-port",
            "0",
        )
        with (self.layout.state / "up.log").open("ab") as said:
            self._up = subprocess.Popen((*command, "--state", str(self.layout.state)), stdout=said, stderr=said)
        deadline = time.monotonic() + _READY_S
        while not self._is_ready():
            if self._up.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"trimtab up did not start: {(self.layout.state / 'up.log').read_text()}")
            time.sleep(0.2)

    def _is_ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            ready = httpx.get(f"{self.base_url}/readyz", timeout=2.0).status_code == httpx.codes.OK
            return ready and self.layout.facts.exists()
        return False

    def stop(self) -> int:
        """Ends it as an init system does; its exit code."""
        assert self._up is not None
        self._up.send_signal(signal.SIGTERM)
        return self._up.wait(60)

    def destroy(self) -> None:
        """Nothing of it is left."""
        if self._up is not None:
            self._up.kill()
            self._up.wait()
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(self.layout.state).encode() in (folder / "environ").read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)

    def victims(self) -> dict[str, int]:
        """What runs now, by what it is: the id of its process. Of several policies, one after the other."""
        table = processes.Table(self.layout.state)
        try:
            rows = [row for row in table.rows() if row.pid and row.status is processes.Status.RUNNING]
        finally:
            table.close()
        found = {row.name.partition("-")[0]: row.pid for row in rows}
        if self._up is not None:
            found[SUPERVISOR] = self._up.pid
        return found

    def job(self) -> tuple[str, int] | None:
        """The run that is worked on, and the process that does."""
        runs = str(self.layout.state / "trainer" / "runs")
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (folder / "cmdline").read_bytes().decode().split("\0")
                if "trimtab.trainer.launch" in command and any(part.startswith(runs) for part in command):
                    return next(pathlib.Path(part).name for part in command if part.startswith(runs)), int(folder.name)
        return None

    def last_saved(self, run_id: str) -> int:
        """Rises with every checkpoint of a run."""
        return jobs.RunFolder(self.layout.state / "trainer" / "runs" / run_id).last_saved()

    def ended_by_themselves(self) -> list[str]:
        """Processes that ended though nobody killed them, in the supervisor's words."""
        lines = (self.layout.logs / "trimtab.log").read_text().splitlines()
        return [line for line in lines if "ended unasked" in line and "SIGKILL" not in line]

    def kill(self, name: str, pid: int) -> None:
        """SIGKILL. A supervisor is started again at once; it starts everything else anew."""
        os.kill(pid, signal.SIGKILL)
        if name == SUPERVISOR:
            assert self._up is not None
            self._up.wait()
            self.start()
