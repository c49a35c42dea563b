"""What a run tells while it works: `progress.json` (the latest step, replaced atomically) and `metrics.jsonl` (all).

Written by the job, read by the service (`trainer.runs.worker`), which shows it to whoever watches the run. At the end
of a step it also takes the checkpoints (`trainer.steps.checkpoints`), so that what is told and what is kept go
together: after a crash the steps that are taken again are told once.
"""

import json
import pathlib

from trimtab.core import failpoints, files
from trimtab.trainer.steps import checkpoints, ranks

PROGRESS_FILE, METRICS_FILE = "progress.json", "metrics.jsonl"


class Progress:
    """One run's. saved: where its checkpoints are; without them it starts from the beginning. among: the processes that
    take its steps; the first of them tells."""

    def __init__(
        self,
        folder: pathlib.Path,
        saved: checkpoints.Checkpoints | None = None,
        among: ranks.Ranks = ranks.ALONE,
    ) -> None:
        self._folder = folder
        self._saved = saved
        self._among = among
        self._carried: checkpoints.Carried | None = None
        self._phases: list[str] = []
        self._steps = 0
        self._done = checkpoints.Step()

    @property
    def figures(self) -> dict[str, float]:
        """Those of the phase's last step."""
        return self._done.figures

    def begin(self, phase: str, steps: int, carried: checkpoints.Carried | None = None) -> int:
        """A new phase of this many steps. Returns how many of them are done: `carried` is as it was after those."""
        self._phases.append(phase)
        self._steps, self._carried, self._done = steps, carried, checkpoints.Step()
        if self._saved is not None and carried is not None:
            self._done = self._saved.restore(len(self._phases), phase, carried)
        if self._among.is_first:
            self._drop_rows()
            self._tell()
        return self._done.number

    def step(self, figures: dict[str, float]) -> None:
        """One step is done. Figures are named with their unit where they have one."""
        self._done = checkpoints.Step(self._done.number + 1, figures)
        if self._among.is_first:
            row = {"phase": self._phases[-1], "step": self._done.number, "figures": figures}
            with (self._folder / METRICS_FILE).open("a") as rows:
                rows.write(json.dumps(row) + "\n")
            failpoints.reach("trainer.progress.before_told")
            self._tell()
        if self._saved is None or self._carried is None:
            return
        # the last step's always: a later phase builds on it
        if self._done.number == self._steps or self._among.first_says(self._saved.due()):
            self._saved.save(len(self._phases), self._phases[-1], self._done, self._steps, self._carried)

    def _drop_rows(self) -> None:
        """Keeps the rows of earlier phases, of this one's steps that are done, and of later ones if all of them are."""
        path = self._folder / METRICS_FILE
        kept = []
        for row in path.read_text().splitlines() if path.exists() else []:
            try:
                told = json.loads(row)
            except ValueError:  # torn by the crash: of a step that is taken again
                continue
            if told["phase"] == self._phases[-1]:
                stays = told["step"] <= self._done.number
            else:
                stays = told["phase"] in self._phases or self._done.number == self._steps
            if stays:
                kept.append(row + "\n")
        files.replace(path, "".join(kept))

    def _tell(self) -> None:
        row = {
            "phase": self._phases[-1],
            "step": self._done.number,
            "steps": self._steps,
            "figures": self._done.figures,
        }
        # replaced whole, for those who read it; not made durable, since every step would pay for it
        path = self._folder / PROGRESS_FILE
        scratch = path.with_suffix(".writing")
        scratch.write_text(json.dumps(row))
        scratch.replace(path)
