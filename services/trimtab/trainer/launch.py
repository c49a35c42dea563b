"""Runs one training job as a child of the trainer: `python -m trimtab.trainer.launch RUN_FOLDER [PROCESSES]`.

`trainer.runs.worker` starts it with a pipe as its standard input. Two things a bare `trainer.job` cannot promise: it
dies with the trainer, however that one died (the pipe ends), and two jobs never write one run folder (a restarted
trainer's job waits for the lock until the dying one is gone).

With several processes it is torchrun's own agent, and each of them is this module again: they die with the agent as it
does with the trainer, and the first, which alone writes, takes the lock. When one dies the agent ends the others, and
itself as that one did, so that the trainer sees of many what it would see of one.
"""

import fcntl
import os
import pathlib
import signal
import sys
import threading

from trimtab.trainer import record

LOCK_FILE = "job.lock"


def main() -> None:
    """Waits for the run folder's lock, then runs the job in this process, or in as many as were asked for."""
    folder, processes = pathlib.Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    threading.Thread(target=_end_with, args=(os.dup(sys.stdin.fileno()),), daemon=True).start()
    if processes > 1:
        _run_together(folder, processes)
        return
    if os.environ.get(record.RANK, "0") != "0":
        _run(folder)
        return
    with (folder / LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _run(folder)


def _run(folder: pathlib.Path) -> None:
    from trimtab.trainer import job

    job.main([str(folder)])


def _run_together(folder: pathlib.Path, processes: int) -> None:
    """`python -m torch.distributed.run --standalone`, in this process, which sees how each of them ended."""
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException, errors

    _give_a_pipe()
    options = ["--standalone", f"--nproc-per-node={processes}", "--module", "trimtab.trainer.launch", str(folder)]
    try:
        torchrun.run(torchrun.parse_args(options))  # type: ignore[no-untyped-call]  # torch's launcher has no types
    except errors.ChildFailedError as failed:
        _end_as(_decisive([one.exitcode for one in failed.failures.values()]))
    except SignalException as told:
        _end_as(-told.sigval)


def _give_a_pipe() -> None:
    """The standard input that they inherit: a pipe whose other end is this process's alone, and ends with it."""
    reads, _ = os.pipe()
    os.dup2(reads, sys.stdin.fileno())
    os.close(reads)


def _decisive(codes: list[int]) -> int:
    """Which end says why: a known problem; being killed, which the others only heard of; a defect; SIGTERM, the agent's
    own way to end the rest."""
    known = (record.KNOWN_PROBLEM_EXIT, record.NOT_NOW_EXIT)

    def rank(code: int) -> int:
        return 0 if code in known else 1 if code < 0 and code != -signal.SIGTERM else 2 if code > 0 else 3

    return min(codes, key=rank)


def _end_as(code: int) -> None:
    if code >= 0:
        sys.exit(code)
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)


def _end_with(parent: int) -> None:
    # A bare read: nothing is ever written, so it returns only when the parent's end of the pipe is closed.
    while os.read(parent, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
