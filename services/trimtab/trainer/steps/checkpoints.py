"""Checkpoints of a training job: a killed one goes on from the last, to weights bit-equal to an uninterrupted one's.

Taken by `trainer.steps.progress` at the end of a step. What a phase carries from one step to the next is in `Carried`,
beside torch's own generator; batches, answers and orders are functions of (seed, step), so a resumed phase skips them.

    checkpoints/1.json              of the run's first phase: step, values, whom it belongs to, digest of its tensors
    checkpoints/1-120.safetensors   its tensors after step 120: weights, optimizers' states, generator

The JSON file is written last and names the other one, so that a crash leaves the old pair or the new one. A pair that
is torn, of another record or of other library versions is not used: the phase starts from its beginning and says so.

Several processes (`trainer.steps.ranks`) write the same two files: tensors are gathered whole and the first process
writes them, so that any number of processes goes on from what any other number left.
"""

import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as tensor_files
from torch import nn

from trimtab.core import errors, failpoints, files
from trimtab.obs import logging
from trimtab.trainer.steps import optim, ranks

FOLDER = "checkpoints"
# Seconds of work between two checkpoints, or more: so many that writing them takes no more than this share of the run.
EVERY_S = 5.0
SHARE = 0.01
_log = logging.get(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Carried:
    """What a phase carries from step to step. values: JSON values that the phase itself reads and replaces."""

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, optim.Optimizer]
    values: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """The last step that was done; number 0: none. figures: what it told."""

    number: int = 0
    figures: dict[str, float] = dataclasses.field(default_factory=dict)


class _Unusable(Exception):
    """Why a checkpoint is not used, in a clause."""


class Checkpoints:
    """Those of one run folder. versions: what bit-equality depends on beside the record. among: who takes the steps.
    processes: how many took the steps that are saved, in turn; one number unless a run went on with others."""

    def __init__(
        self, run: pathlib.Path, record: bytes, versions: Mapping[str, str], among: ranks.Ranks = ranks.ALONE
    ) -> None:
        self._among = among
        self.processes: list[int] = []
        self._folder = run / FOLDER
        self._folder.mkdir(exist_ok=True)
        self._record, self._versions = hashlib.sha256(record).hexdigest(), dict(versions)
        self._saved_at = time.monotonic()
        self._took_s = 0.0

    def restore(self, ordinal: int, phase: str, carried: Carried) -> Step:
        """Puts a phase's state back to its last checkpoint. What later phases saved is kept only if this one is done.

        ordinal: the phase's place in the run, from 1.
        """
        path = self._path(ordinal)
        done, finished = Step(), False
        if path.exists():
            try:
                document, tensors = self._read(path, phase)
                _put_back(carried, document, tensors, self._among)
                done, finished = Step(document["step"], document["figures"]), document["step"] == document["steps"]
                self._count(*document.get("processes", (1,)))
                _log.info("goes on from a checkpoint", phase=phase, step=done.number, processes=self._among.size)
            except _Unusable as problem:
                _log.warning("a checkpoint is not used; starts from the beginning", phase=phase, reason=str(problem))
        self._agree(done)
        if self._among.is_first:
            self._drop(lambda other: other > ordinal and not finished)
        self._saved_at = time.monotonic()
        return done

    def due(self) -> bool:
        """Whether enough work was done since the last one."""
        return time.monotonic() - self._saved_at >= max(EVERY_S, self._took_s / SHARE)

    def save(self, ordinal: int, phase: str, done: Step, steps: int, carried: Carried) -> None:
        """Writes the phase's state after a step; returns when it is durable."""
        begun = time.monotonic()
        self._count(self._among.size)
        taken = _taken(carried, self._among)
        if not self._among.is_first:
            return
        path = self._path(ordinal)
        tensors = path.with_name(f"{ordinal}-{done.number}.safetensors")
        scratch = path.with_name(f".{ordinal}.safetensors.new")
        tensor_files.save_file(taken, scratch)
        document = {
            "phase": phase,
            "step": done.number,
            "steps": steps,
            "figures": done.figures,
            "values": carried.values,
            "optimizers": {name: optimizer.counters() for name, optimizer in carried.optimizers.items()},
            "record": self._record,
            "processes": self.processes,
            "versions": self._versions,
            "tensors": tensors.name,
            "sha256": files.digest(scratch),
        }
        files.settle(scratch, tensors)
        failpoints.reach("trainer.checkpoint.before_document")
        files.replace(path, json.dumps(document))
        failpoints.reach("trainer.checkpoint.before_old_is_dropped")
        for old in self._folder.glob(f"{ordinal}-*.safetensors"):
            if old != tensors:
                old.unlink()
        self._saved_at = time.monotonic()
        self._took_s = self._saved_at - begun

    def _count(self, *processes: int) -> None:
        for number in processes:
            if self.processes[-1:] != [number]:
                self.processes.append(number)

    def _agree(self, done: Step) -> None:
        """Processes that read different files would train different models, or wait for each other for ever."""
        found = {int(number) for number in self._among.each(torch.tensor(done.number))}
        if len(found) > 1:
            raise errors.WrongState(
                f"The processes of this run found different checkpoints in {self._folder} (steps "
                f"{', '.join(map(str, sorted(found)))}); give all of them the same run folder."
            )

    def _path(self, ordinal: int) -> pathlib.Path:
        return self._folder / f"{ordinal}.json"

    def _read(self, path: pathlib.Path, phase: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        try:
            document = json.loads(path.read_text())
            tensors = path.with_name(document["tensors"])
            if (document["record"], document["phase"]) != (self._record, phase):
                raise _Unusable("it is of another record")
            if changed := self._changed(document["versions"]):
                raise _Unusable(f"it was written under another version of {', '.join(changed)}")
            if files.digest(tensors) != document["sha256"]:
                raise _Unusable(f"{tensors.name} is torn")
            return document, tensor_files.load_file(tensors)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as problem:
            raise _Unusable(f"it is torn: {problem!r}") from problem

    def _changed(self, before: Mapping[str, str]) -> list[str]:
        now = self._versions
        return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))

    def _drop(self, outdated: Callable[[int], bool]) -> None:
        for path in self._folder.glob("*"):
            ordinal = path.name.lstrip(".").partition(".")[0].partition("-")[0]
            if ordinal.isdigit() and outdated(int(ordinal)):
                path.unlink()


def _taken(carried: Carried, among: ranks.Ranks) -> dict[str, torch.Tensor]:
    """Every tensor of the state by name, as it is now; empty but in the first process."""
    taken = {_generator(rank): state for rank, state in enumerate(among.each(torch.get_rng_state()))}
    for name, module in carried.modules.items():
        taken |= {f"module/{name}/{key}": tensor for key, tensor in _tensors(module).items()}
    for name, optimizer in carried.optimizers.items():
        taken |= {f"optimizer/{name}/{key}": tensor for key, tensor in optimizer.tensors().items()}
    kept = {}
    for name, tensor in taken.items():
        whole = among.whole(tensor.detach())  # of all processes, one tensor after the other
        if among.is_first:
            kept[name] = whole.cpu().contiguous()
    return kept


def _generator(rank: int) -> str:
    """What draws are made from, in each process."""
    return "generator" if rank == 0 else f"generator/{rank}"


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Weights that move, tied ones once, and buffers: the others are what the phase starts from."""
    moving = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    return {**moving, **dict(module.named_buffers())}


@torch.no_grad()
def _put_back(
    carried: Carried, document: Mapping[str, Any], tensors: dict[str, torch.Tensor], among: ranks.Ranks
) -> None:
    """Checks first, so that a state is put back whole or not at all."""
    # copies, because a kernel's result may depend on how its inputs lie in memory
    own = {name: tensor.clone() for name, tensor in tensors.items()}
    weights = {
        f"module/{name}/{key}": tensor
        for name, module in carried.modules.items()
        for key, tensor in _tensors(module).items()
    }
    fits = all(name in own and own[name].shape == tensor.shape for name, tensor in weights.items())
    if not fits or "generator" not in own or document["optimizers"].keys() != carried.optimizers.keys():
        raise _Unusable("it does not fit the model")
    for name, tensor in weights.items():
        tensor.copy_(among.laid_like(own[name], tensor))
    for name, optimizer in carried.optimizers.items():
        prefix = f"optimizer/{name}/"
        state = {key.removeprefix(prefix): tensor for key, tensor in own.items() if key.startswith(prefix)}
        optimizer.put_back(state, document["optimizers"][name])
    carried.values.update(document["values"])
    if (drawn := own.get(_generator(among.rank))) is not None:  # else there were fewer processes
        torch.set_rng_state(drawn)
