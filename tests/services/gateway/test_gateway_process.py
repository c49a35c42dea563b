"""The gateway as a process of its own: how it starts, what it refuses, how it ends."""

import contextlib
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests import timing

from trimtab.rpc import secrets


@pytest.fixture
def flags(settings_of: dict[str, Any], tmp_path: pathlib.Path) -> list[str]:
    secrets.create(tmp_path / "secrets.toml", "acme")
    given = settings_of | {
        "drain_s": 5,
        "http_listen": "127.0.0.1:0",
        "http_address_file": tmp_path / "http",
        "feedback_address": "127.0.0.1:1",
    }
    return [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def command(service: str, *flags: str) -> list[str]:
    return [sys.executable, "-m", "trimtab.cli.app", service, *flags]


@contextlib.contextmanager
def started(flags: list[str]) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(command("gateway", *flags), stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def bound(path: pathlib.Path) -> str:
    deadline = time.monotonic() + timing.PATIENCE_S
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return path.read_text()


def test_it_serves_until_it_is_told_to_end(flags: list[str], tmp_path: pathlib.Path) -> None:
    with started(flags) as process:
        url = f"http://{bound(tmp_path / 'http')}"
        assert httpx.get(f"{url}/healthz").json() == {"status": "alive"}
        assert httpx.get(f"{url}/v1/models").status_code == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(timing.PATIENCE_S) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/healthz")


def test_a_port_that_is_taken_is_one_sentence_and_exit_2(flags: list[str], tmp_path: pathlib.Path) -> None:
    with started(flags):
        address = bound(tmp_path / "http")
        second = subprocess.run(
            command("gateway", *flags, "--http-listen", address),
            capture_output=True,
            text=True,
            timeout=timing.PATIENCE_S,
            check=False,
        )
    assert second.returncode == 2
    last = second.stderr.strip().splitlines()[-1]
    assert last.startswith(f"gateway: `http_listen` '{address}' cannot be bound")
    assert last.endswith("give a free port as host:port.")
