"""`trimtab up` with a port that it cannot have starts nothing and says which flag gives another one."""

import pathlib
import socket
from collections.abc import Iterator

import pytest
from tests.integration.loop import living

from trimtab.cli.machine import platform
from trimtab.rollout import processes
from trimtab.rpc import ports


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of another program."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def up(state: pathlib.Path, *flags: str) -> str:
    """What a platform that does not come up says."""
    said = living.trimtab("up", "--state", str(state), *flags)
    assert (said.returncode, "Traceback" in said.stderr) == (1, False)
    assert not platform.Layout(state).facts.exists()
    assert processes.Table(state).rows() == []
    return said.stderr.splitlines()[-1]


@pytest.mark.parametrize(("flag", "other"), [("--port", "--grpc-port"), ("--grpc-port", "--port")])
def test_a_port_that_is_taken_is_named_with_its_flag(flag: str, other: str, taken: int, tmp_path: pathlib.Path) -> None:
    said = up(tmp_path, flag, str(taken), other, "0")
    assert said.startswith(f"trimtab: `{flag}` {taken} cannot be had (")
    assert said.endswith(f"; stop what listens there, or give another port with {flag}.")


def test_two_doors_at_one_port_are_refused(tmp_path: pathlib.Path) -> None:
    said = up(tmp_path, "--port", "8081")
    assert said == "trimtab: `--grpc-port` is 8081 like `--port`; give each a port of its own."


def test_no_process_is_given_the_port_of_a_door_that_is_not_open_yet(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doors = platform.Platform(tmp_path, "acme", "main", *(ports.free_port() for _ in range(2)))

    def wanted(*_: object) -> None:
        for address in (doors._http, doors._grpc):
            with pytest.raises(OSError, match="in use"):
                socket.create_server(("127.0.0.1", int(address.rpartition(":")[2])))
        raise Started

    class Started(Exception):
        pass

    monkeypatch.setattr(platform.Platform, "_want", wanted)
    with pytest.raises(Started), doors.running():
        pass
    for address in (doors._http, doors._grpc):
        socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))).close()
