"""Ports of this machine for servers that are about to start."""

import contextlib
import socket


def free_ports(count: int) -> list[int]:
    """So many different ports of 127.0.0.1 that nobody has at the moment: asked of the system and let go, so that the
    server that is told one can bind it."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def free_port() -> int:
    """One such port."""
    return free_ports(1)[0]
