"""Measures training beside TRL: `python -m tests.benchmarks.training` writes the tables of its page, one per model.

Ours, TRL as it comes and TRL tuned take turns, each in a process of its own, so that whatever else the machine does
disturbs all three alike. A ratio is that of one turn; its median and its range over the turns are told.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
from typing import NamedTuple

from tests.benchmarks import pages, peers
from tests.benchmarks.training import plan

PAGE = pages.FOLDER / "training.md"
TITLES = {
    "0.5M": "A Llama of 0.5 million weights, fp32",
    plan.PRETRAINED: f"SmolLM2-135M-Instruct, adapters of rank {plan.RANK}, bfloat16",
}
SIDES = ("ours", "as it comes", "tuned")
Run = dict[str, float]
Turn = dict[str, Run]


class Ratio(NamedTuple):
    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.low:.2f} to {self.high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures training beside TRL.")
    parser.add_argument("--turns", type=int, default=5, help="how often every side is measured (default: %(default)s)")
    parser.add_argument("--sizes", nargs="+", default=list(TITLES), help="models (default: all)")
    parser.add_argument("--methods", nargs="+", default=list(plan.PLANS), choices=list(plan.PLANS))
    parser.add_argument("--cpu", action="store_true", help="compare processor time, on a machine that does other work")
    parser.add_argument("--dry", action="store_true", help="print the tables, leave the page as it is")
    asked = parser.parse_args()
    if set(asked.methods) != set(plan.PLANS) and not asked.dry:
        parser.error("--methods with some of them gives part of a table: add --dry, which leaves the page as it is")
    for size in asked.sizes:
        from tests.benchmarks.training import workload  # torch takes seconds

        folder = workload.made(size)
        rate = matmul_rate("bfloat16" if size == plan.PRETRAINED else "float32")
        turns = plan.turns_of(size, asked.turns)
        methods = [method for method in asked.methods if method in plan.methods_of(size)]
        measured = {method: turns_of(method, folder, turns) for method in methods}
        text = table(size, measured, rate, workload.work(size), cpu=asked.cpu)
        print(text)  # noqa: T201  # what was asked for
        if not asked.dry:
            pages.put(PAGE, text, size)


def turns_of(method: str, folder: pathlib.Path, turns: int) -> list[Turn]:
    taken = []
    for number in range(turns):
        # another side first every time
        order = [SIDES[(number + place) % len(SIDES)] for place in range(len(SIDES))]
        turn = {side: run(method, folder, side) for side in order}
        taken.append({side: turn[side] for side in SIDES})
        told = ", ".join(f"{side} {one['seconds']:.2f} s" for side, one in taken[-1].items())
        print(f"{folder.name} {method} {number + 1}/{turns}: {told}", file=sys.stderr, flush=True)  # noqa: T201
    return taken


def run(method: str, folder: pathlib.Path, side: str) -> Run:
    """The figures of one process (`clock.Clock.told`)."""
    if side == "ours":
        command = [sys.executable, "-m", "tests.benchmarks.training.ours", method, str(folder)]
    else:
        python = peers.python_of(plan.PLANS[method].peer)
        tuned = str(int(side == "tuned"))
        command = [str(python), "-m", "tests.benchmarks.training.theirs", method, str(folder), tuned]
    # without compiled modules a peer takes half a minute longer to start
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = {**inherited, "OMP_NUM_THREADS": str(plan.THREADS)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=peers.CACHE.parent)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    figures: Run = json.loads(done.stdout.splitlines()[-1])
    return figures


def table(size: str, measured: dict[str, list[Turn]], rate: float, work: dict[str, float], *, cpu: bool) -> str:
    """One model's rows. work: floating-point operations of a pass over the data, by method."""
    clock = "cpu_seconds" if cpu else "seconds"
    lines = [
        f"**{TITLES[size]}, {len(next(iter(measured.values())))} turns**",
        "",
        headline(cpu),
        "",
        "| method | steps/s | × TRL as it comes | target | × TRL tuned | target | peak MiB: ours, TRL, tuned "
        "| matmul share |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for method, turns in measured.items():
        planned = plan.of(size, method)
        seconds = statistics.median(turn["ours"][clock] for turn in turns)
        steps = turns[0]["ours"]["steps"]
        share = f"{work[method] * planned.measured / seconds / rate:.0%}" if method in work else ""
        peaks = ", ".join(f"{statistics.median(turn[side]['peak'] for turn in turns) / 2**20:.0f}" for side in SIDES)
        cells = [
            method,
            f"{steps / seconds:.2f}",
            str(ratio(turns, "as it comes", clock)),
            f"{planned.target[0]:g}",
            str(ratio(turns, "tuned", clock)),
            f"{planned.target[1]:g}",
            peaks,
            share,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def ratio(turns: list[Turn], side: str, clock: str) -> Ratio:
    """How many times as fast ours is.

    Beside TRL as it comes, which asks its reference at every step, ours counts the pass over the reference that it
    makes before the first one; beside TRL tuned, which makes that pass as well, neither does.
    """

    def ours(turn: Turn) -> float:
        mine = turn["ours"]
        prepared = mine["preparation_cpu_seconds" if clock == "cpu_seconds" else "preparation_seconds"]
        return mine[clock] + (prepared if side == "as it comes" else 0.0)

    ratios = sorted(turn[side][clock] / ours(turn) for turn in turns)
    return Ratio(statistics.median(ratios), ratios[0], ratios[-1])


def matmul_rate(dtype: str) -> float:
    """Floating-point operations a second of a matrix product of 1024 x 1024 on as many threads as training has."""
    code = (
        f"import time, torch; torch.set_num_threads({plan.THREADS}); a = torch.randn(1024, 1024).to(torch.{dtype})\n"
        "def once():\n"
        "    begun = time.process_time(); a @ a; return time.process_time() - begun\n"
        "print(2 * 1024 ** 3 / min(once() for _ in range(20)))"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def headline(cpu: bool) -> str:
    model = next(
        (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    time = "processor time" if cpu else "time on the clock"
    return (
        f"Measured on {datetime.date.today():%Y-%m-%d} by {time}: {plan.THREADS} thread, "
        f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}."
    )


def _cpuinfo() -> list[str]:
    path = pathlib.Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


if __name__ == "__main__":
    main()
