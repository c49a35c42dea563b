"""What a real node makes the kernel keep, and how all of that is removed again."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import platform
import sys
import tempfile
from collections.abc import Iterator
from typing import TextIO

from tests import timing
from tests.kubernetes import processes

BRIDGE = "trimtab-pods"
# The machine's on the bridge, and those of pods.
ADDRESS, PODS = "10.244.200.1", "10.244.200.0/24"
CGROUP = "trimtab-pods"
_LOCK = pathlib.Path(tempfile.gettempdir()) / "trimtab-kubernetes-node.lock"
_HIERARCHIES = pathlib.Path("/sys/fs/cgroup")
# kube-proxy's own names, and it leaves them behind.
_RULES = ("ip kube-proxy", "ip6 kube-proxy")
# The kubelet and the bridge's plugin set these.
_SYSCTLS = pathlib.Path("/proc/sys")
_SET = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward")


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """lock: a file that is ours while it is open; it says what the node there is will put back."""

    lock: TextIO


def impossible() -> str:
    """Why this machine cannot have one; empty when it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "it needs Linux on x86-64"
    if os.geteuid() != 0:
        return "it needs root"
    return ""


@contextlib.contextmanager
def turn() -> Iterator[Turn]:
    """The one real node that a machine may have is ours to make. Who comes while another has it waits."""
    with _LOCK.open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Turn(lock)


@contextlib.contextmanager
def none_left(ours: Turn) -> Iterator[None]:
    """A bridge and a cgroup for as long as the context lasts; then whatever came of them is gone, and so is what pods
    still run. What a test that was killed has left is removed before. RuntimeError: somebody else's Kubernetes is
    here."""
    if reason := impossible():
        raise RuntimeError(f"This machine cannot have a real node: {reason}.")
    lock = ours.lock
    lock.seek(0)
    if left := lock.read():
        _remove(json.loads(left))
    lock.truncate(0)
    if theirs := _rules():
        raise RuntimeError(f"Somebody else's kube-proxy has rules on this machine: nft table {theirs[0]}.")
    before = {name: (_SYSCTLS / name).read_text() for name in _SET}
    lock.write(json.dumps(before))
    lock.flush()
    try:
        _make()
        yield
    finally:
        _remove(before)
        lock.truncate(0)


def _make() -> None:
    processes.run("ip", "link", "add", BRIDGE, "type", "bridge")
    processes.run("ip", "address", "add", f"{ADDRESS}/24", "dev", BRIDGE)
    processes.run("ip", "link", "set", BRIDGE, "up")
    for hierarchy in _hierarchies():
        (hierarchy / CGROUP).mkdir()


def _remove(before: dict[str, str]) -> None:
    """before: values of the kernel's settings."""
    processes.end(_running())
    for port in pathlib.Path(f"/sys/class/net/{BRIDGE}").glob("brif/*"):
        timing.until(lambda port=port: _unlinked(port.name), f"the end of the link {port.name}")
    if pathlib.Path(f"/sys/class/net/{BRIDGE}").exists():
        processes.run("ip", "link", "delete", BRIDGE)
    for rules in _rules():
        processes.run("nft", "delete", "table", *rules.split())
    for path in _cgroups():
        timing.until(lambda path=path: _removed(path), f"the end of cgroup {path}")
    for name, value in before.items():
        (_SYSCTLS / name).write_text(value)


def _rules() -> list[str]:
    tables = processes.run("nft", "list", "tables").split("\n")
    return [rules for rules in _RULES if f"table {rules}" in tables]


def _running() -> list[int]:
    """In pods, and containerd's shims beside them, which outlive it."""
    found = {int(pid) for path in _cgroups() for pid in (path / "cgroup.procs").read_text().split()}
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            ours = any("/trimtab-kubernetes-" in word and word.endswith("/node/containerd.sock") for word in words)
            if ours and words[0].endswith("containerd-shim-runc-v2"):
                found.add(int(path.parent.name))
    return sorted(found)


def _hierarchies() -> list[pathlib.Path]:
    """One of version 2, or each of version 1."""
    if (_HIERARCHIES / "cgroup.controllers").exists():
        return [_HIERARCHIES]
    return [path for path in sorted(_HIERARCHIES.iterdir()) if path.is_dir() and not path.is_symlink()]


def _cgroups() -> list[pathlib.Path]:
    """The innermost first."""
    tops = [path for hierarchy in _hierarchies() if (path := hierarchy / CGROUP).exists()]
    found = {path for top in tops for path in [top, *(one for one in top.rglob("*") if one.is_dir())]}
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def _unlinked(name: str) -> bool:
    """A pod's link, which the kernel takes away itself some time after the pod's last process."""
    with contextlib.suppress(RuntimeError):  # it has done so just now
        processes.run("ip", "link", "delete", name)
    return not pathlib.Path(f"/sys/class/net/{name}").exists()


def _removed(path: pathlib.Path) -> bool:
    with contextlib.suppress(OSError):  # busy for a moment after its last process
        path.rmdir()
    return not path.exists()
