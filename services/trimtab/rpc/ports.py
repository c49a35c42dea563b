"""Ports of this machine for servers that are about to start."""

import contextlib
import pathlib
import random
import socket

# The first and last port that the system gives to outgoing connections, on Linux.
_OUTGOING = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range")
# Below are those of well-known services.
_FIRST, _LAST = 10_000, 65_535


def free_ports(count: int) -> list[int]:
    """So many different ports of 127.0.0.1 that nobody has at the moment, so that the server that is told one can bind
    it: where the system says which ports it gives to outgoing connections, none of these, which any connection takes
    before the server starts, or while it is started again."""
    with contextlib.ExitStack() as held:
        return [_bound(held.enter_context(socket.socket())) for _ in range(count)]


def free_port() -> int:
    """One such port."""
    return free_ports(1)[0]


def _bound(probe: socket.socket) -> int:
    for port in _in_random_order():
        with contextlib.suppress(OSError):  # somebody has it
            probe.bind(("127.0.0.1", port))
            return port
    probe.bind(("127.0.0.1", 0))
    return int(probe.getsockname()[1])


def _in_random_order() -> list[int]:
    """All that are left when those of outgoing connections are not to be had; so that two who look at once differ."""
    try:
        low, high = map(int, _OUTGOING.read_text().split())
    except OSError:  # another system than Linux
        return []
    left = [*range(_FIRST, min(low, _LAST + 1)), *range(max(high + 1, _FIRST), _LAST + 1)]
    return random.sample(left, len(left))
