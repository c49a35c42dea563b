"""Training jobs in several processes: forked from a prepared one, so that each costs little, and met as torchrun has
processes meet. What torchrun itself adds, starting and ending them, is tested with `trainer.launch`."""

import json
import os
import pathlib
import signal
from typing import Any

from tests.faults import killing

from trimtab.core import failpoints
from trimtab.rpc import ports
from trimtab.trainer import record

_LIMIT_S = 240.0
# How long the others may take to find what ended the first one, which each reads from the same record.
_SAME_END_S = 60.0
_GATES = {"win_rate": 0.5, "kl_to_anchor": 40.0, "length_ratio": 2.0, "repetition": 0.2}
# After the third step was taken and the second saved.
KILLED = "trainer.progress.before_told:3"


def prepare(folder: pathlib.Path, kind: str, settings: dict[str, Any], inputs: dict[str, str]) -> pathlib.Path:
    """A run folder with its record."""
    folder.mkdir()
    spec = {"kind": kind, "seed": 7, "settings_json": json.dumps(settings)}
    document = {"run_id": "run-1", "spec": spec, "inputs": inputs, "gates": _GATES}
    (folder / record.STARTED).write_text(json.dumps(document))
    return folder


def run(folder: pathlib.Path, processes: int, dies_at: str = "") -> list[int]:
    """The exit codes of a job of so many, with a checkpoint after every step. dies_at: where the first one is killed;
    the others are then killed as well, as torchrun would."""
    port = ports.free_port()
    started = [
        killing.FORKED.Process(target=_work, args=(folder, rank, processes, port, dies_at if rank == 0 else ""))
        for rank in range(processes)
    ]
    for one in started:
        one.start()
    for rank, one in enumerate(started):
        one.join(_LIMIT_S)
        if rank == 0 and (dies_at or one.exitcode):
            for other in started[1:]:
                other.join(0.0 if dies_at else _SAME_END_S)
                other.kill()
    for one in started:
        one.kill()
        one.join()
    if dies_at:
        assert started[0].exitcode == -signal.SIGKILL, f"it did not die at {dies_at}"
    return [one.exitcode or 0 for one in started]


def _work(folder: pathlib.Path, rank: int, processes: int, port: int, dies_at: str) -> None:
    os.environ |= {record.RANK: str(rank), "LOCAL_RANK": str(rank), record.WORLD_SIZE: str(processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if dies_at:
        failpoints.arm(dies_at)
    from trimtab.trainer import job
    from trimtab.trainer.steps import checkpoints

    checkpoints.EVERY_S, checkpoints.SHARE = 0.0, float("inf")
    job.main([str(folder)])
