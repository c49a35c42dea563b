"""Leaves in a run folder what a training job leaves, at once: the trainer's side of the folder can then be tested in
milliseconds. The trainer starts it as it starts Python: `quick_job.py -m trimtab.trainer.launch RUN_FOLDER`.

A file `deaths` beside all run folders says how often it is killed before; with a file `saves` it comes to a new
checkpoint each time.
"""

import json
import os
import pathlib
import signal
import sys

_MADE = {"sft": ("policy",), "reward": ("reward", "evaluation_reward"), "ppo": ("policy",)}


def main() -> None:
    folder = pathlib.Path(sys.argv[-1])
    spec = json.loads((folder / "started.json").read_text())["spec"]
    (folder / "checkpoints").mkdir(exist_ok=True)
    _die(folder)
    outputs = []
    for kind in _MADE[spec["kind"]]:
        (folder / "outputs" / kind).mkdir(parents=True, exist_ok=True)
        (folder / "outputs" / kind / "config.json").write_text(json.dumps([kind, spec["seed"]]))
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
