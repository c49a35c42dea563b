"""What is measured: a Kafka, our feedback service and gateway over each log, and a bare gRPC server. Real processes."""

import contextlib
import dataclasses
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator

from trimtab.bus import connect
from trimtab.rpc import secrets

_UP_WITHIN_S = 60.0
TENANT = "acme"
_TRIMTAB = ("trimtab.cli.app",)


@dataclasses.dataclass(frozen=True)
class Door:
    """A gRPC address, and the token that it takes."""

    address: str
    token: str = ""


@dataclasses.dataclass(frozen=True)
class Platform:
    """Two replicas of the feedback service and a gateway before them. log_url: where what they acknowledge is.

    feedback: the first replica alone; replicas: both, in turn.
    """

    log_url: str
    known: secrets.Secrets
    feedback: Door
    replicas: Door
    gateway: Door


@contextlib.contextmanager
def platform(folder: pathlib.Path, log_url: str) -> Iterator[Platform]:
    folder.mkdir()
    api_key = secrets.create(folder / "secrets.toml", TENANT)
    known = secrets.load(folder / "secrets.toml")
    (folder / "lines.toml").write_text("")
    connect.create_topics(log_url)
    shared = _shared(folder, log_url)
    with contextlib.ExitStack() as running:
        feedback, _ = running.enter_context(_started(folder, "feedback", *_TRIMTAB, "feedback", *shared))
        second, _ = running.enter_context(_started(folder, "second", *_TRIMTAB, "feedback", *shared))
        both = f"ipv4:{feedback},{second}"
        doors = ("--http-listen", "127.0.0.1:0", "--feedback-address", both)
        gateway, _ = running.enter_context(_started(folder, "gateway", *_TRIMTAB, "gateway", *shared, *doors))
        one, every = Door(feedback, known.internal_token), Door(both, known.internal_token)
        yield Platform(log_url, known, one, every, Door(gateway, api_key))


@contextlib.contextmanager
def ledger(folder: pathlib.Path, log_url: str, database: str = "") -> Iterator[int]:
    """A ledger with an empty database, a SQLite of the folder by default, in a folder with secrets; its process id."""
    (folder / "lines.toml").write_text("")
    shared = _shared(folder, log_url)
    given = (*_TRIMTAB, "ledger", *shared, "--database", database or f"sqlite:///{folder}/ledger.db")
    with _started(folder, "ledger", *given) as (_, process):
        yield process


def resident_mib(process: int, *, peak: bool = False) -> float:
    """The resident memory now, or the greatest so far."""
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    wanted = "VmHWM:" if peak else "VmRSS:"
    [kib] = [line.split()[1] for line in status.splitlines() if line.startswith(wanted)]
    return int(kib) / 1024


@contextlib.contextmanager
def echo(folder: pathlib.Path) -> Iterator[Door]:
    """A gRPC server that answers at once: `tests.benchmarks.ingest.echo`."""
    with _started(folder, "echo", "tests.benchmarks.ingest.echo") as (address, _):
        yield Door(address)


def _shared(folder: pathlib.Path, log_url: str) -> tuple[str, ...]:
    return (
        *("--log-url", log_url, "--registry-url", f"file://{folder}/models", "--cache", f"{folder}/cache"),
        *("--lines-file", f"{folder}/lines.toml", "--secrets-file", f"{folder}/secrets.toml", "--log-level", "warning"),
    )


@contextlib.contextmanager
def _started(folder: pathlib.Path, name: str, *module: str) -> Iterator[tuple[str, int]]:
    """`python -m` of a module that writes where it listens; its address and process id."""
    said, where = folder / f"{name}.out", folder / f"{name}.address"
    with said.open("wb") as output:
        command = (sys.executable, "-m", *module, "--address-file", str(where))
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        give_up_at = time.monotonic() + _UP_WITHIN_S
        while not where.exists():
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"{name} does not come up: {said.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield where.read_text(), process.pid
    finally:
        process.terminate()
        process.wait(30)
