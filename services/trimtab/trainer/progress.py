"""What a run tells while it works: `progress.json` (the latest step, replaced atomically) and `metrics.jsonl` (all).

Written by the job, read by the service (`trainer.runs`), which shows it to whoever watches the run.
"""

import json
import pathlib
from typing import Any

PROGRESS_FILE, METRICS_FILE = "progress.json", "metrics.jsonl"


class Progress:
    """One run's. `steps` is set once the run knows how many it will take."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._phase = ""
        self._step = 0
        self._steps = 0
        (folder / METRICS_FILE).write_text("")

    def begin(self, phase: str, steps: int) -> None:
        """A new phase of this many steps, counted from 0."""
        self._phase, self._step, self._steps = phase, 0, steps
        self._write({})

    def step(self, figures: dict[str, float]) -> None:
        """One step is done. Figures are named with their unit where they have one."""
        self._step += 1
        row = {"phase": self._phase, "step": self._step, "figures": figures}
        with (self._folder / METRICS_FILE).open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        self._write(figures)

    def _write(self, figures: dict[str, float]) -> None:
        row = {"phase": self._phase, "step": self._step, "steps": self._steps, "figures": figures}
        replace_json(self._folder / PROGRESS_FILE, row)


def replace_json(path: pathlib.Path, document: dict[str, Any]) -> None:
    """Writes the file so that a reader sees the old or the new document, never a part."""
    scratch = path.with_suffix(".writing")
    scratch.write_text(json.dumps(document))
    scratch.replace(path)
