"""What a training run starts from and ends with, as the files of its folder. Needs no torch.

`trainer.runs.jobs` writes the start and reads the end, `trainer.job` the other way round.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.core import errors, lines, models, runs

STARTED, RESULT, PROBLEM, OUTPUTS = "started.json", "result.json", "problem.txt", "outputs"
# What the run was told by other processes (`trainer.methods.elsewhere`), a folder.
JOURNAL = "journal"
# The file of the internal token, in the environment of a job that asks other processes.
SECRETS_FILE = "TRIMTAB_SECRETS_FILE"
# What torchrun tells each process of a job that has several: its number, and how many there are.
RANK, WORLD_SIZE = "RANK", "WORLD_SIZE"
# Of a run that cannot succeed, for a reason that a person can do something about.
KNOWN_PROBLEM_EXIT = 2
# Of one that something it needs is away for: another process, space on the disk. Started again it goes on.
NOT_NOW_EXIT = 3


# How many processes trained, among the versions that bit-equality depends on.
PROCESSES = "processes"
_THEN = " then "


def processes_text(numbers: Sequence[int]) -> str:
    """How many processes took a run's steps, in turn: "2", or "1 then 2" where it went on with others."""
    return _THEN.join(map(str, numbers))


def last_processes(versions: Mapping[str, str]) -> int:
    """How many took its last steps; 1 where nobody said."""
    return int(versions.get(PROCESSES, "1").split(_THEN)[-1])


@dataclasses.dataclass(frozen=True, slots=True)
class OwnSet:
    """An evaluation set of the line's owner, as published; at_least: as in `core.lines`."""

    dataset_id: str
    at_least: float

    @staticmethod
    def role(name: str) -> str:
        """What the set of this name is called among a run's inputs."""
        return f"set {name}"


@dataclasses.dataclass(frozen=True, slots=True)
class Judging:
    """How the line's candidates are judged. anchor_id: of the line when the run was prepared; sets: by name."""

    gates: lines.GateConfig
    anchor_id: str = ""
    sets: dict[str, OwnSet] = dataclasses.field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As it stands in `started.json`, and with it in the manifest."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, document: dict[str, Any]) -> "Judging":
        """From `document`, or from one of those keys and others. KeyError or TypeError where it is none."""
        sets = {name: OwnSet(**one) for name, one in document.get("sets", {}).items()}
        return cls(lines.GateConfig(**document["gates"]), document.get("anchor_id", ""), sets)


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """What a run depends on. inputs: folders by role (parent, reference, reward, evaluation_reward, dataset, and those
    of its own evaluation sets). reference_is: "anchor", "parent", or "reference" for any other policy. parent_id,
    reward_id: of the policy it starts from and the reward model; empty, like tenant and line, where nobody said it."""

    kind: runs.RunKind
    seed: int
    settings_json: str
    inputs: dict[str, pathlib.Path]
    judging: Judging
    reference_is: str = "reference"
    tenant: str = ""
    line: str = ""
    parent_id: str = ""
    reward_id: str = ""

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
        judging = Judging.of(record)
        return Started(
            kind=runs.RunKind(record["spec"]["kind"]),
            seed=int(record["spec"]["seed"]),
            settings_json=record["spec"]["settings_json"],
            inputs={role: pathlib.Path(path) for role, path in record["inputs"].items() if path},
            judging=judging,
            reference_is=_reference_is(record["spec"], judging.anchor_id),
            **{name: str(record["spec"].get(name, "")) for name in ("tenant", "line", "parent_id", "reward_id")},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise errors.ArtifactCorrupt(f"{folder / STARTED} is no record of a run: {problem!r}.") from problem


def _reference_is(spec: dict[str, Any], anchor_id: str) -> str:
    reference, parent = spec.get("reference_id", ""), spec.get("parent_id", "")
    if reference and reference == anchor_id:
        return "anchor"
    return "parent" if reference in ("", parent) else "reference"
