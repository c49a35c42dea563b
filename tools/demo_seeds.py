"""Plays the demo with several seeds, one after the other, and prints what each showed as a Markdown table.

    python tools/demo_seeds.py 1 2 3 > table.md

Exit code 0 when at least nine in ten ended well. Memory is the largest sum of what the demo's processes hold in
private and their share of what is common (PSS), looked at every two seconds.
"""

import contextlib
import json
import subprocess
import sys
import threading
import time
from typing import Any

import psutil

LOOK_EVERY_S = 2.0


class Memory(threading.Thread):
    """Watches a process and all its descendants; `peak_gib` is the most they held."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.peak_gib = 0.0
        self._root = psutil.Process(root)
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(LOOK_EVERY_S):
            with contextlib.suppress(psutil.NoSuchProcess):  # the demo has ended
                self.peak_gib = max(self.peak_gib, _held_bytes(self._root) / 2**30)


def _held_bytes(root: psutil.Process) -> int:
    held = 0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            held += process.memory_full_info().pss
    return held


def play(seed: str) -> tuple[int, float, float, dict[str, Any]]:
    """One demo: exit code, seconds, peak GiB, what it printed as JSON."""
    command = [sys.executable, "-m", "trimtab.cli.app", "demo", "--json", "--seed", seed]
    begun = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        memory = Memory(demo.pid)
        memory.start()
        said, _ = demo.communicate()
        memory.ended.set()
    return demo.returncode, time.monotonic() - begun, memory.peak_gib, json.loads(said) if said else {}


def row(seed: str, code: int, seconds: float, gib: float, shown: dict[str, Any]) -> str:
    policies = [
        f"{one['approval']:.3f} ({one['low']:.3f} to {one['high']:.3f}), {one['kl_to_anchor']:.1f}, {one['words']:.1f}"
        for one in shown.get("policies", ())
    ]
    states = [one["state"].replace("_", " ") for one in shown.get("releases", ())]
    books = shown.get("books", {})
    votes = f"{books['acknowledged']}, {'balanced' if books['balance'] else 'not balanced'}" if books else ""
    cells = [seed, str(code), *(policies or [""] * 5), ", ".join(states), votes, f"{seconds:.0f}", f"{gib:.1f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    seeds = sys.argv[1:]
    if not seeds:
        sys.exit("usage: python tools/demo_seeds.py SEED...")
    columns = "seed | exit | first policy | round one | round two | small step | planted | releases | votes | s | GiB"
    print("Policies: approval (95 %), KL to the anchor in nats per answer, words.\n")
    print(f"| {columns} |\n|{'---|' * len(columns.split('|'))}", flush=True)
    well = 0
    for seed in seeds:
        code, *rest = play(seed)
        well += code == 0
        print(row(seed, code, *rest), flush=True)
    print(f"\n{well} of {len(seeds)} ended well.")
    sys.exit(0 if well * 10 >= len(seeds) * 9 else 1)


if __name__ == "__main__":
    main()
