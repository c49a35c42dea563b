"""Free ports: none that an outgoing connection may take, and never one that is taken."""

import pathlib
import socket

import pytest

from trimtab.rpc import ports


def told(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    (folder / "range").write_text(said)
    monkeypatch.setattr(ports, "_OUTGOING", folder / "range")


def bindable(number: int) -> bool:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", number))
        return True


def test_none_is_of_the_range_of_outgoing_connections(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told(tmp_path, monkeypatch, "10100\t65000\n")
    found = ports.free_ports(300)
    assert len(set(found)) == 300 and all(map(bindable, found))
    assert all(10_000 <= number < 10_100 or 65_000 < number <= 65_535 for number in found)


def test_one_that_somebody_has_is_passed_over(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told(tmp_path, monkeypatch, "10000\t65533\n")
    with socket.socket() as holder:
        taken, left = 65_534, 65_535
        holder.bind(("127.0.0.1", taken))
        assert {ports.free_port() for _ in range(20)} == {left}


@pytest.mark.parametrize("said", ["1024\t65535\n", "1024\t70000\n"])
def test_where_connections_may_take_every_port_the_system_is_asked(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    told(tmp_path, monkeypatch, said)
    assert bindable(ports.free_port())


def test_where_the_system_does_not_say_it_is_asked(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_OUTGOING", tmp_path / "missing")
    found = ports.free_ports(20)
    assert len(set(found)) == 20 and all(map(bindable, found))
