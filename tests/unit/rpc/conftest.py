"""Settings, secrets and a process of our own to talk to."""

import contextlib
import logging
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from tests import timing
from tests.unit.rpc import toy

from trimtab.rpc import process, secrets, settings
from trimtabapi.reward.v1 import reward_service_pb2_grpc


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    """Processes configure the logs of the whole interpreter; tests give them back."""
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    yield
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


@pytest.fixture
def secrets_file(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "secrets.toml"
    secrets.create(path, "acme")
    return path


@pytest.fixture
def arguments(tmp_path: pathlib.Path, secrets_file: pathlib.Path) -> dict[str, str]:
    """All settings a toy process needs, by field."""
    return {
        "log_url": "sqlite:////nowhere",
        "registry_url": "file:///nowhere",
        "cache": str(tmp_path / "cache"),
        "lines_file": str(tmp_path / "lines.toml"),
        "secrets_file": str(secrets_file),
    }


@pytest.fixture
def config(arguments: dict[str, str]) -> settings.ProcessSettings:
    return settings.ProcessSettings(**arguments, drain_s=5.0, log_level="error")  # type: ignore[arg-type]


@pytest.fixture
def servicer() -> toy.ToyReward:
    return toy.ToyReward()


@pytest.fixture
def made(config: settings.ProcessSettings, servicer: toy.ToyReward) -> process.Process:
    """A process with the toy service, not started."""
    built = process.Process("toy", config)
    register = reward_service_pb2_grpc.add_RewardServiceServicer_to_server
    built.add_service(lambda server: register(servicer, server), toy.SERVICE)
    return built


@pytest.fixture
async def served(made: process.Process) -> AsyncIterator[process.Process]:
    async with made.serving():
        yield made


class Launched:
    """A toy process of its own, and what it wrote."""

    def __init__(self, folder: pathlib.Path, flags: list[str]) -> None:
        self.ends = folder / "ends"
        self._address = folder / "address"
        command = [sys.executable, toy.__file__, "--ends", str(self.ends), "--address-file", str(self._address), *flags]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TRIMTAB_")}
        self.running = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def address(self) -> str:
        """Where it listens, as soon as it says so."""
        deadline = time.monotonic() + timing.PATIENCE_S
        while not self._address.exists():
            if self.running.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the process did not start: {self.running.communicate()[1]}")
            time.sleep(0.02)
        return self._address.read_text()

    def end(self) -> tuple[int, str, str]:
        """Its exit code, standard output and standard error."""
        out, err = self.running.communicate(timeout=timing.PATIENCE_S)
        return self.running.returncode, out, err


@pytest.fixture
def launch(tmp_path: pathlib.Path, arguments: dict[str, str]) -> Iterator[Callable[..., Launched]]:
    with contextlib.ExitStack() as stack:

        def start(*flags: str) -> Launched:
            shared = [f"--{name.replace('_', '-')}={value}" for name, value in arguments.items()]
            launched = Launched(tmp_path, [*shared, *flags])
            stack.callback(launched.running.wait)
            stack.callback(launched.running.kill)
            return launched

        yield start
