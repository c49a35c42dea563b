"""Real processes of the platform on one log, and what can be done to them."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import parser
from tests.broker import cluster
from tests.faults.harness import clocks, process

from trimtab.core import failpoints, files
from trimtab.rpc import ports

ROOT = pathlib.Path(__file__).parents[3]
_SERVING_WITHIN_S = 300.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Failed(Exception):
    """Something did not come about that a row needs, or that every row may count on; the sentence says what."""


def settings_of(folder: pathlib.Path, log_url: str) -> dict[str, Any]:
    """What every process of an installation in a folder is told."""
    return {
        "log_url": log_url,
        "registry_url": f"file://{folder / 'registry'}",
        "cache": folder / "cache",
        "lines_file": folder / "lines.toml",
        "secrets_file": folder / "secrets.toml",
        "drain_s": 1.0,
    }


class Subject:
    """One process, at one address for life. A kill keeps all that is on disk; `start` goes on with it.

    lives: how often it was started.
    """

    def __init__(
        self,
        program: str,
        name: str,
        folder: pathlib.Path,
        settings: Mapping[str, Any],
        *,
        mutant: str = "",
        environment: Mapping[str, str] = types.MappingProxyType({}),
    ) -> None:
        """environment: what `process` reads of it, beside a mutant."""
        self.name = name
        serves, counts = ports.free_ports(2)
        self.address, self._page = f"127.0.0.1:{serves}", f"http://127.0.0.1:{counts}/metrics"
        self.kills = self.lives = 0
        self.said = folder / f"{name}.log"
        self.clock = folder / f"{name}.clock"
        self._program = program
        self._pace = folder / f"{name}.pace"
        self._settings = {**settings, "listen": self.address, "metrics_port": counts}
        self._changed = {**environment, **({process.MUTANT: mutant} if mutant else {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, failpoint: str = "") -> None:
        """failpoint: where it is to die by itself. Returns before it serves."""
        flags = [part for name, value in self._settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        environment = os.environ | self._changed
        environment |= {failpoints.VARIABLE: failpoint} if failpoint else {}
        module = "tests.faults.harness.process" if self._changed else "trimtab.cli.app"
        self.lives += 1
        with self.said.open("ab") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, self._program, *flags],
                env=environment,
                cwd=ROOT,
                stdout=said,
                stderr=said,
                start_new_session=True,  # a Ctrl-C is for the harness
            )

    def await_serving(self, within_s: float = _SERVING_WITHIN_S) -> None:
        """Returns when it serves, or has died at its failpoint."""
        give_up_at = time.monotonic() + within_s
        while not self._is_serving():
            if self.died():
                return
            if time.monotonic() > give_up_at:
                raise Failed(f"{self.name} does not serve: {self.said.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        self._send(signal.SIGKILL)
        self._running.wait()
        self.kills += 1

    def pause(self) -> None:
        """It stands still, and does not know that it does, until `resume`."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    @property
    def stands_still(self) -> bool:
        return "T (stopped)" in pathlib.Path(f"/proc/{self._running.pid}/status").read_text()

    def await_death(self, within_s: float) -> bool:
        """Whether it has died at its failpoint in time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._running.wait(within_s)
        self.kills += self.died()
        return self.died()

    def died(self) -> bool:
        """Killed; Failed when it ended in another way, which nobody asked of it."""
        code = self._running.poll()
        if code not in (None, -signal.SIGKILL):
            said = self.said.read_text(errors="replace")[-2000:]
            raise Failed(f"{self.name} ended by itself with exit code {code}: {said}")
        return code is not None

    def set_clock(self, seconds_ahead: float) -> None:
        """Of a process that is, or will be, started with a clock of its own."""
        clocks.put(self.clock, seconds_ahead)
        self._changed[process.CLOCK] = str(self.clock)

    def set_pace(self, seconds: float) -> None:
        """What each record costs its consumer beside the work; of a process that is, or will be, started so."""
        files.replace(self._pace, f"{seconds}")
        self._changed[process.PACE] = str(self._pace)

    def upgrade(self) -> None:
        """Ends it, and starts it as one that reads feedback of the version after this one."""
        self._changed[process.LATER] = "yes"
        self.end()
        self.start()
        self.await_serving()

    @property
    def pid(self) -> int:
        return self._running.pid

    def rss_mib(self) -> float:
        pages = pathlib.Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * _PAGE_BYTES / 2**20

    def descriptors(self) -> int:
        return len(list(pathlib.Path(f"/proc/{self.pid}/fd").iterdir()))

    def figure(self, name: str, **labels: str) -> float:
        """What its page of metrics says now; Failed when it does not say it."""
        page = httpx.get(self._page, timeout=_SERVING_WITHIN_S).text
        for family in parser.text_string_to_metric_families(page):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return float(sample.value)
        raise Failed(f"{self.name} has no figure {name} {labels}")

    def end(self) -> None:
        """Nothing of it is left."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise Failed(f"{self.name} was not started")
        return self._process

    def _send(self, number: signal.Signals) -> None:
        self._running.send_signal(number)

    def _is_serving(self) -> bool:
        with contextlib.suppress(grpc.RpcError), grpc.insecure_channel(self.address) as channel:
            asked = health_pb2.HealthCheckRequest(service="")
            answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=1.0)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
        return False


class Broker:
    """A Kafka of one node that clients reach directly, or through a proxy's port."""

    def __init__(self, folder: pathlib.Path, proxied: int) -> None:
        direct, controller, behind = ports.free_ports(3)
        self.address, self.proxied_address = f"127.0.0.1:{direct}", f"127.0.0.1:{proxied}"
        self.behind = behind
        settings = {
            "listeners": f"PLAINTEXT://127.0.0.1:{direct},PROXIED://127.0.0.1:{behind},"
            f"CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.address},PROXIED://{self.proxied_address}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
        }
        [self.node] = cluster.Cluster(folder, 1, settings, (direct, controller)).nodes
        self.kills = 0

    def start(self) -> None:
        self.node.start()
        self.node.await_ready()

    def kill(self) -> None:
        self.node.kill()
        self.kills += 1


@contextlib.contextmanager
def broker(folder: pathlib.Path, proxied: int) -> Iterator[Broker]:
    made = Broker(folder, proxied)
    try:
        made.start()
        yield made
    finally:
        made.node.kill()
