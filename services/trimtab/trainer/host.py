"""Runs the training jobs that a trainer offers: `python -m trimtab.trainer.host RUNS [--idle-s SECONDS]`.

RUNS is the folder `runs` of the state of a trainer that has `--jobs-elsewhere`, on a volume that both see at the same
path. One job at a time, the one that has waited longest; the host ends when none has waited for a while, so that a
Kubernetes Job holds its GPUs no longer than there is work. Any number of hosts may look into one folder. A job dies
with its host, and the next host goes on from its last checkpoint.
"""

import argparse
import os
import pathlib
import signal
import sys
import time

from trimtab.obs import logging
from trimtab.trainer import offers, record
from trimtab.trainer.runs import jobs

_LOOK_S = 0.5
_END_GRACE_S = 5.0
_log = logging.get(__name__)


def main(argv: list[str] | None = None) -> None:
    """Works until nothing has waited for so long, or until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m trimtab.trainer.host", description="Runs a trainer's jobs.")
    parser.add_argument("runs", type=pathlib.Path, help="folder `runs` of the trainer's state")
    parser.add_argument("--idle-s", type=float, default=60.0, help="seconds without work after which it ends (60)")
    asked = parser.parse_args(argv)
    logging.configure("host", "info")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as process 1 it has no other way to end
    worked_at = time.monotonic()
    while time.monotonic() - worked_at < asked.idle_s:
        if any(attend(folder) for folder in _waiting(asked.runs)):
            worked_at = time.monotonic()
        else:
            time.sleep(_LOOK_S)
    _log.info("nothing waits; the host ends", idle_s=asked.idle_s)


def attend(folder: pathlib.Path) -> bool:
    """Runs the job that is offered there, to its end or until it is not wanted; False when another host has it."""
    with offers.taken(folder / offers.HOST_LOCK) as mine:
        offer = offers.waiting(folder)
        if not mine or offer is None:
            return False
        _log.info("a job begins", run=folder.name, start=offer.start, processes=offer.processes)
        exit_code = _run(folder, offer)
        if exit_code is not None:
            offers.end(folder, offer, exit_code)
        _log.info("a job ended", run=folder.name, start=offer.start, exit_code=exit_code)
        return True


def _run(folder: pathlib.Path, offer: offers.Offer) -> int | None:
    """Its exit code; None when it was ended because the offer is withdrawn."""
    secrets = os.environ.get(record.SECRETS_FILE)
    run = jobs.RunFolder(folder)
    child = jobs.Child(run, sys.executable, pathlib.Path(secrets) if secrets else None, offer.processes)
    try:
        while (exit_code := child.wait(_LOOK_S)) is None:
            if offers.offered(folder) != offer:
                child.end(_END_GRACE_S)
                return None
        return exit_code
    finally:
        child.close()


def _waiting(runs: pathlib.Path) -> list[pathlib.Path]:
    """Run folders with a job that waits, the oldest offer first."""
    offered = sorted(runs.glob(f"*/{offers.OFFERED}"), key=lambda path: path.stat().st_mtime_ns)
    return [path.parent for path in offered if offers.waiting(path.parent) is not None]


if __name__ == "__main__":
    main()
