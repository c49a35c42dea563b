"""Leaves in a run folder what a training job leaves, at once: the trainer's side of the folder can then be tested in
milliseconds. The trainer starts it as it starts Python: `quick_job.py -m trimtab.trainer.launch RUN_FOLDER 1`.

A file `deaths` beside all run folders says how often it is killed before; with a file `saves` it comes to a new
checkpoint each time. What lies in a folder `weights` there is part of every model it makes.
"""

import json
import os
import pathlib
import shutil
import signal
import sys

_MADE = {"sft": ("policy",), "reward": ("reward", "evaluation_reward"), "ppo": ("policy",)}


def interpreter(folder: pathlib.Path) -> pathlib.Path:
    """A program in a folder that a trainer takes for its Python: every job is this one."""
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} "$@"\n')
    program.chmod(0o755)
    return program


def main() -> None:
    folder = pathlib.Path(sys.argv[3])
    spec = json.loads((folder / "started.json").read_text())["spec"]
    (folder / "checkpoints").mkdir(exist_ok=True)
    _die(folder)
    outputs = []
    for kind in _MADE[spec["kind"]]:
        made = folder / "outputs" / kind
        made.mkdir(parents=True, exist_ok=True)
        weights = folder.parent.parent / "weights"
        if weights.exists():
            shutil.copytree(weights, made, dirs_exist_ok=True)
        (made / "made.json").write_text(json.dumps([kind, spec["seed"]]))
        outputs.append({"folder": f"outputs/{kind}", "kind": kind, "method": spec["kind"], "gates": [], "passed": True})
    (folder / "progress.json").write_text('{"step": 1, "steps": 1, "figures": {"loss": 1.5}}')
    result = {"outputs": outputs, "figures": {"loss": 1.5}, "settings": {}, "versions": {"torch": "2"}}
    (folder / "result.json").write_text(json.dumps(result))


def _die(folder: pathlib.Path) -> None:
    deaths = folder.parent.parent / "deaths"
    left = int(deaths.read_text()) if deaths.exists() else 0
    if left:
        deaths.write_text(str(left - 1))
        if (deaths.parent / "saves").exists():
            (folder / "checkpoints" / "1.json").write_text(str(left))
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
