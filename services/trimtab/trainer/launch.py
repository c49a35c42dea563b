"""Runs one training job as a child of the trainer: `python -m trimtab.trainer.launch RUN_FOLDER`.

`trainer.runs.worker` starts it with a pipe as its standard input. Two things a bare `trainer.job` cannot promise: it
dies with the trainer, however that one died (the pipe ends), and two jobs never write one run folder (a restarted
trainer's job waits for the lock until the dying one is gone).
"""

import fcntl
import os
import pathlib
import sys
import threading

LOCK_FILE = "job.lock"


def main() -> None:
    """Waits for the run folder's lock, then runs the job in this process."""
    folder = pathlib.Path(sys.argv[1])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with (folder / LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        from trimtab.trainer import job

        job.main([str(folder)])


def _end_with_parent() -> None:
    # A bare read: nothing is ever written, so it returns only when the trainer's end of the pipe is closed.
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
