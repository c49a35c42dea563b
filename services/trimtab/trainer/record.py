"""What a training run starts from and ends with, as the files of its folder. Needs no torch.

`trainer.runs.jobs` writes the start and reads the end, `trainer.job` the other way round.
"""

import dataclasses
import json
import pathlib

from trimtab.core import errors, lines, models, runs

STARTED, RESULT, PROBLEM, OUTPUTS = "started.json", "result.json", "problem.txt", "outputs"
# Of a run that cannot succeed, for a reason that a person can do something about.
KNOWN_PROBLEM_EXIT = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """What a run depends on. inputs: folders by role (parent, reference, reward, evaluation_reward, dataset)."""

    kind: runs.RunKind
    seed: int
    settings_json: str
    inputs: dict[str, pathlib.Path]
    gates: lines.GateConfig

    def input(self, role: str) -> pathlib.Path:
        """The folder of one input; InvalidField when the run was not given it."""
        if role not in self.inputs:
            raise errors.InvalidField(f"{role}_id", "is missing", f"name the {role.replace('_', ' ')} of this run")
        return self.inputs[role]


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """One model of the run; folder is relative to the run's."""

    folder: str
    kind: models.ModelKind
    method: str
    gates: tuple[models.GateFigure, ...] = ()

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    outputs: tuple[Output, ...]
    figures: dict[str, float]


def read(folder: pathlib.Path) -> Started:
    """The record of the run; ArtifactCorrupt when it is not one."""
    try:
        record = json.loads((folder / STARTED).read_text())
        return Started(
            kind=runs.RunKind(record["spec"]["kind"]),
            seed=int(record["spec"]["seed"]),
            settings_json=record["spec"]["settings_json"],
            inputs={role: pathlib.Path(path) for role, path in record["inputs"].items() if path},
            gates=lines.GateConfig(**record["gates"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise errors.ArtifactCorrupt(f"{folder / STARTED} is no record of a run: {problem!r}.") from problem
