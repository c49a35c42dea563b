"""Starts a platform in an empty state folder and prints, as Markdown, when it answers and what it costs when idle.

    python tools/footprint.py POLICY_FOLDER

POLICY_FOLDER: a Hugging Face chat model, as for `trimtab up --policy`. CPU is the processor time of every process over
a minute without a request, as a share of one core. Memory is what a process holds in private and its share of what is
common (PSS); what several processes map, such as torch's libraries, counts once in the sum.
"""

import contextlib
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import httpx
import psutil

from trimtab.cli import app
from trimtab.cli.machine import platform
from trimtab.core import errors
from trimtab.rpc import ports, secrets

_IDLE_S = 60.0
_SETTLE_S = 10.0
_START_LIMIT_S = 180.0


def first_answer_s(up: subprocess.Popen[bytes], state: pathlib.Path, url: str, begun: float) -> float:
    """Seconds until a chat completion is answered."""
    asked = {"model": "main", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
    while time.monotonic() - begun < _START_LIMIT_S and up.poll() is None:
        with contextlib.suppress(httpx.TransportError, OSError, errors.TrimtabError):
            headers = {"Authorization": f"Bearer {secrets.local_api_key(platform.Layout(state).secrets)}"}
            if httpx.post(f"{url}/v1/chat/completions", json=asked, headers=headers, timeout=30).is_success:
                return time.monotonic() - begun
        time.sleep(0.1)
    sys.exit("The platform gave no answer.")


def name_of(process: psutil.Process) -> str:
    """What a process of the platform is called."""
    words = process.cmdline()
    if "up" in words:
        return "supervisor"
    return next((word for word in words if word in app.PROCESSES), "other")


def cpu_s(processes: list[psutil.Process]) -> dict[str, float]:
    times = [(name_of(one), one.cpu_times()) for one in processes]
    return {name: taken.user + taken.system for name, taken in times}


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/footprint.py POLICY_FOLDER")
    port = ports.free_port()
    with tempfile.TemporaryDirectory() as scratch:
        state = pathlib.Path(scratch) / "state"
        begun = time.monotonic()
        command = (sys.executable, "-m", "trimtab.cli.app", "up", "--policy", sys.argv[1])
        where = ("--state", str(state), "--port", str(port), "--grpc-port", "0")
        with subprocess.Popen((*command, *where), stdout=subprocess.DEVNULL) as up:
            try:
                first_s = first_answer_s(up, state, f"http://127.0.0.1:{port}", begun)
                report(psutil.Process(up.pid), first_s)
            finally:
                up.send_signal(signal.SIGTERM)


def report(root: psutil.Process, first_s: float) -> None:
    """Prints the table."""
    time.sleep(_SETTLE_S)
    processes = [root, *root.children(recursive=True)]
    before, begun = cpu_s(processes), time.monotonic()
    time.sleep(_IDLE_S)
    taken_s = time.monotonic() - begun
    after = cpu_s(processes)
    share = {name: (after[name] - before[name]) / taken_s for name in after}
    held = {name_of(one): one.memory_full_info().pss / 2**20 for one in processes}
    print(f"First answer after {first_s:.1f} s.\n")
    print("| process | CPU when idle, % of a core | memory, MiB |")
    print("|---|---:|---:|")
    for name in sorted(held, key=lambda one: -held[one]):
        print(f"| {name} | {100 * share[name]:.2f} | {held[name]:.0f} |")
    print(f"| **together** | {100 * sum(share.values()):.2f} | {sum(held.values()):.0f} |")


if __name__ == "__main__":
    main()
