"""One training job as the service sees it: a run folder and a child process.

`trainer.runs.worker` makes the folder, starts the child, reads what it writes. What happens inside the child is
`trainer.job` (through `trainer.launch`); the two share nothing but the folder:

    started.json    what the run depends on; written once, before the first start
    progress.json   step, steps, figures; replaced by the job after every step
    checkpoints/    what a killed job goes on from
    journal/        what other processes told it; published with its models
    result.json     the outputs; the job's last act
    problem.txt     why a job ended with exit code 2 or 3, in a sentence
    job.log         its standard output and error
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
from typing import Any, Protocol

from trimtab import registry
from trimtab.core import errors, failpoints, files, models, runs
from trimtab.trainer import record
from trimtab.trainer.links import publishing, snapshots

PROGRESS, LOG = "progress.json", "job.log"
_INPUTS = {
    "parent": "parent_id",
    "reference": "reference_id",
    "reward": "reward_id",
    "evaluation_reward": "evaluation_reward_id",
    "dataset": "dataset_id",
}
_CHECKPOINTS, _OUTPUTS = "checkpoints", "outputs"
_LOG_TAIL_CHARACTERS = 2000


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    step: int
    steps: int
    figures: dict[str, float]


class RunFolder:
    """The folder of one run, made if absent."""

    def __init__(self, path: pathlib.Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path

    def prepare(self, run: runs.Run, judging: record.Judging, artifacts: registry.Registry) -> None:
        """Fetches and verifies the inputs and writes what the run depends on. A resumed run keeps its record."""
        started = {"run_id": run.id, "spec": dataclasses.asdict(run.spec), **judging.document()}
        path = self.path / record.STARTED
        if path.exists():
            # Only where the artifacts lie may have changed: a run is a function of its first record.
            started = json.loads(path.read_text())
            judging = record.Judging.of(started)
        ids = {name: getattr(run.spec, field) for name, field in _INPUTS.items()}
        ids |= {record.OwnSet.role(name): one.dataset_id for name, one in judging.sets.items()}
        started["inputs"] = {name: str(artifacts.fetch(one)) if one else None for name, one in ids.items()}
        files.replace(path, json.dumps(started, indent=1, sort_keys=True))
        failpoints.reach("trainer.run.prepared")

    def progress(self) -> Progress | None:
        """How far the job is; None before its first step."""
        table = _object(self.path / PROGRESS)
        if table is None:
            return None
        return Progress(int(table["step"]), int(table["steps"]), _figures(table))

    def result(self) -> publishing.Result | None:
        """What the job made; None while it has not ended well. ArtifactCorrupt when it cannot be read."""
        table = _object(self.path / record.RESULT)
        if table is None:
            return None
        try:
            started = _object(self.path / record.STARTED) or {}
            return publishing.Result(
                started={"spec": started["spec"], **record.Judging.of(started).document()},
                outputs=tuple(self._output(entry) for entry in table["outputs"]),
                figures=_figures(table),
                settings=table["settings"],
                versions=table["versions"],
                journal=journal if (journal := self.path / record.JOURNAL).is_dir() else None,
            )
        except (KeyError, TypeError, ValueError) as problem:
            raise errors.ArtifactCorrupt(f"{record.RESULT} of the run has an unknown form: {problem!r}.") from problem

    def problem(self, exit_code: int) -> str:
        """Why a job that ended without a result did, for the person who reads the run."""
        path = self.path / record.PROBLEM
        said = path.read_text().strip() if path.exists() else ""
        if said and exit_code in (record.KNOWN_PROBLEM_EXIT, record.NOT_NOW_EXIT):
            return said
        if exit_code == record.NOT_NOW_EXIT:
            return f"No space is left where {self.path} lies; make some, and the run goes on from its last checkpoint."
        if exit_code < 0:
            return (
                f"The training process was killed by {signal.Signals(-exit_code).name} again and again without coming "
                "to a new checkpoint; look whether it needs more memory than there is."
            )
        log = self.path / LOG
        tail = log.read_text(errors="replace")[-_LOG_TAIL_CHARACTERS:].strip() if log.exists() else ""
        return f"The training process ended with code {exit_code}. Its log ends: {tail or '(empty)'}"

    def last_saved(self) -> int:
        """Rises with every checkpoint that the job has taken; 0 when there is none."""
        return max((path.stat().st_mtime_ns for path in (self.path / _CHECKPOINTS).glob("*.json")), default=0)

    def forget_weights(self) -> None:
        """Drops what an ended run needs no more: checkpoints, snapshots, and outputs that the registry has."""
        shutil.rmtree(self.path / _CHECKPOINTS, ignore_errors=True)
        shutil.rmtree(self.path / _OUTPUTS, ignore_errors=True)
        shutil.rmtree(self.path / snapshots.FOLDER, ignore_errors=True)

    def _output(self, entry: dict[str, Any]) -> publishing.Output:
        return publishing.Output(
            folder=self.path / entry["folder"],
            kind=models.ModelKind(entry["kind"]),
            method=entry["method"],
            gates=tuple(models.GateFigure(**gate) for gate in entry["gates"]),
            passed=bool(entry["passed"]),
        )


class Job(Protocol):
    """A started job, wherever it runs."""

    def waits_for(self) -> str:
        """Why it has not begun, in a sentence; empty when it has."""
        ...

    def wait(self, timeout_s: float) -> int | None:
        """The exit code; None when it still runs after that time."""
        ...

    def end(self, grace_s: float) -> None:
        """It is not wanted any more. Returns when it is gone."""
        ...

    def leave(self, grace_s: float) -> None:
        """This process ends; the job does so only where it cannot do without."""
        ...

    def close(self) -> None:
        """The last call, of a job that has ended or was left."""
        ...


class Child:
    """A `Job` of this machine. It dies with this process: its standard input is a pipe that only this process holds.

    secrets_file: of the internal token it asks other processes with; None: it asks nobody. processes: that train.
    """

    def __init__(self, folder: RunFolder, python: str, secrets_file: pathlib.Path | None, processes: int = 1) -> None:
        environment = {name: value for name, value in os.environ.items() if name != record.SECRETS_FILE}
        if secrets_file is not None:
            environment[record.SECRETS_FILE] = str(secrets_file.absolute())
        with (folder.path / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                [python, "-m", "trimtab.trainer.launch", str(folder.path), str(processes)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**environment, "PYTHONUNBUFFERED": "1"},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def waits_for(self) -> str:
        return ""

    def wait(self, timeout_s: float) -> int | None:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def end(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL for one that has not ended in time. Returns when it is gone."""
        self._process.terminate()
        if self.wait(grace_s) is None:
            self._process.kill()
        self._process.wait()

    def leave(self, grace_s: float) -> None:
        self.end(grace_s)

    def close(self) -> None:
        """Lets go of the pipe."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()


def _figures(table: dict[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in table["figures"].items()}


def _object(path: pathlib.Path) -> dict[str, Any] | None:
    """The JSON object in a file that is replaced whole; None when there is none yet."""
    try:
        table = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as problem:
        raise errors.ArtifactCorrupt(f"{path.name} of the run is no JSON: {problem}.") from problem
    if not isinstance(table, dict):
        raise errors.ArtifactCorrupt(f"{path.name} of the run is no JSON object.")
    return table
