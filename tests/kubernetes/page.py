"""Measures the platform as pods, and writes docs/benchmarks/kubernetes.md and the transcript of docs/deploy.md:
`python -m tests.kubernetes.page`."""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from tests.benchmarks import pages
from tests.kubernetes import installed

_TESTS = pathlib.Path(__file__).with_name("test_platform_on_a_real_node.py")
_PAGE = pages.FOLDER / "kubernetes.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.kubernetes.page", description=__doc__)
    parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trimtab-figures-") as folder:
        file = pathlib.Path(folder) / "figures.json"
        asked = [sys.executable, "-m", "pytest", "--quiet", "--capture=no", str(_TESTS)]
        subprocess.run(asked, env=os.environ | {installed.FIGURES: str(file)}, check=True)
        figures = json.loads(file.read_text())
    pages.put(_PAGE, page(figures))
    pages.put(installed.PAGE, f"```\n{figures['watched'].rstrip()}\n```", "watched")


def page(figures: dict[str, Any]) -> str:
    """What stands between the page's marks."""
    images, install = (_seconds(figures, words) for words in ("docker push", "helm upgrade"))
    back, killed, updated = figures["rolled_back"], figures["killed"], figures["updated"]
    two = figures["two_trainers"]
    shares = ", ".join(
        f"{theirs / answers:.2f} of {answers} answers in the {stage} stage (weight {weight})"
        for stage, (theirs, answers, weight) in back["shares"].items()
        if answers
    )
    liked = back["reward"]
    hacked = (
        f"the reward model prefers an average earlier answer to {liked['candidate']:.0%} of its answers "
        f"and to {liked['stable']:.0%} of the stable policy's"
    )
    rows = [
        ("control plane, node, Kafka, PostgreSQL", f"up in {figures['machine_s']:.0f} s"),
        ("images that are built", f"pushed to the node in {images:.0f} s"),
        ("chart", f"every pod ready in {install:.0f} s"),
        ("docs/deploy.md, from the empty cluster to the promoted release", f"{sum(figures['blocks_s']):.0f} s"),
        ("rolled back", f"{back['after_verdict_s']:.1f} s after the verdict; {shares}; {hacked}"),
        (
            f"two trainers, {two['stopped']} times",
            f"{two['told']} announcements, {two['stale']} of them not counted",
        ),
        ("a run in two processes of a Job", f"{figures['job_s']:.0f} s from `kubectl create job` to what it made"),
        (f"killed, {killed['kills']} times", _calls(killed)),
        (f"updated in {updated['update_s']:.0f} s, evicted in {updated['drain_s']:.0f} s", _calls(updated)),
    ]
    today = datetime.datetime.now(datetime.UTC).date()
    table = "\n".join(f"| {what} | {measured} |" for what, measured in rows)
    return f"Made on {today}.\n\n| what | measured |\n| --- | --- |\n{table}"


def _seconds(figures: dict[str, Any], words: str) -> float:
    """Of the block of docs/deploy.md that has these words in it."""
    (number,) = [number for number, block in enumerate(installed.blocks()) if words in block]
    return float(figures["blocks_s"][number])


def _calls(figures: dict[str, Any]) -> str:
    (asked, unasked), (voted, unvoted), (streamed, cut) = (figures[kind] for kind in ("chat", "vote", "stream"))
    return (
        f"failed: {unasked} of {asked} questions, {unvoted} of {voted} votes; {cut} of {streamed} streams ended early; "
        f"the longest call {figures['longest_s']:.1f} s"
    )


if __name__ == "__main__":
    main()
