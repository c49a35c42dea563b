"""Runs a published run again, from what its manifests and the registry hold, and compares what it makes, byte by byte.

Called by `trimtab train reproduce` and by the fault harness. Nothing of the run but what was published is needed: not
its run folder, not the trainer's database, no process. What other processes told the run is in its published journal.
"""

import dataclasses
import pathlib
import shutil
import sys
from collections.abc import Callable, Sequence

from trimtab import registry
from trimtab.core import clock, errors, files, runs
from trimtab.trainer import record
from trimtab.trainer.runs import jobs

_LOOK_EVERY_S = 0.2


@dataclasses.dataclass(frozen=True, slots=True)
class Compared:
    """A file of one of the run's models. published, made: sha256, hex; made is empty when it was not made again.

    difference: the largest of any weight, where both are safetensors of the same shapes that are not equal.
    """

    model_id: str
    kind: str
    path: str
    published: str
    made: str
    difference: float | None = None

    @property
    def equal(self) -> bool:
        return self.published == self.made


@dataclasses.dataclass(frozen=True, slots=True)
class Reproduction:
    """versions: (name, then, now) of every library and of the machine."""

    run_id: str
    files: tuple[Compared, ...]
    versions: tuple[tuple[str, str, str], ...]

    @property
    def equal(self) -> bool:
        return all(file.equal for file in self.files)


def find(artifacts: registry.Registry, beginning: str) -> list[registry.Manifest]:
    """The models of the run whose id begins so. NotFound when nothing of it was published."""
    found = [manifest for manifest in artifacts.list() if manifest.run_id and manifest.run_id.startswith(beginning)]
    known = sorted({manifest.run_id for manifest in found})
    if not known:
        raise errors.NotFound("published run", beginning)
    if len(known) > 1:
        raise errors.InvalidField("run", f"{beginning!r} begins {len(known)} ids", "give more of it")
    return found


def reproduce(
    artifacts: registry.Registry,
    published: Sequence[registry.Manifest],
    scratch: pathlib.Path,
    tell: Callable[[jobs.Progress], None] = lambda _: None,
) -> Reproduction:
    """Runs the job of one run's models again in a scratch folder; `tell` hears how far it is.

    WrongState when the job ends without a result; InvalidField when the models were published without their record.
    """
    run, judging = _record(published[0])
    folder = jobs.RunFolder(scratch)
    folder.prepare(run, judging, artifacts)
    if journal := published[0].settings.get("journal"):
        shutil.copytree(artifacts.fetch(journal), scratch / record.JOURNAL)
    processes = record.last_processes(published[0].versions)
    child = jobs.Child(folder, sys.executable, secrets_file=None, processes=processes)
    try:
        while (exit_code := child.wait(_LOOK_EVERY_S)) is None:
            if (progress := folder.progress()) is not None:
                tell(progress)
    finally:
        child.end(0.0)
        child.close()
    result = folder.result() if exit_code == 0 else None
    if result is None:
        raise errors.WrongState(f"Run {run.id} could not be run again. {folder.problem(exit_code or 0)}")
    made = {output.kind: output.folder for output in result.outputs}
    files = [
        _compared(artifacts, manifest, file, made[manifest.kind] / file.path)
        for manifest in published
        for file in manifest.files
    ]
    then, now = published[0].versions, result.versions
    names = sorted(then.keys() | now.keys())
    return Reproduction(run.id, tuple(files), tuple((name, then.get(name, ""), now.get(name, "")) for name in names))


def _record(manifest: registry.Manifest) -> tuple[runs.Run, record.Judging]:
    """The run as it was asked for, and how its models were judged."""
    try:
        started = manifest.settings["started"]
        spec = runs.RunSpec(**{**started["spec"], "kind": runs.RunKind(started["spec"]["kind"])})
        judging = record.Judging.of(started)
    except (KeyError, TypeError, ValueError) as problem:
        raise errors.InvalidField(
            "run", f"was published without the record it depended on ({problem!r})", "choose a later one"
        ) from problem
    return runs.Run(manifest.run_id, spec, runs.RunState.RUNNING, clock.utc_now()), judging


def _compared(
    artifacts: registry.Registry, manifest: registry.Manifest, file: registry.File, made: pathlib.Path
) -> Compared:
    digest = files.digest(made) if made.is_file() else ""
    difference = None
    if digest and digest != file.sha256 and made.suffix == ".safetensors":
        difference = _largest_difference(artifacts.fetch(manifest.id) / file.path, made)
    return Compared(manifest.id, manifest.kind.value, file.path, file.sha256, digest, difference)


def _largest_difference(first: pathlib.Path, second: pathlib.Path) -> float | None:
    from safetensors import torch as tensor_files

    ours, theirs = tensor_files.load_file(first), tensor_files.load_file(second)
    if {name: tensor.shape for name, tensor in ours.items()} != {name: one.shape for name, one in theirs.items()}:
        return None
    return max((float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours), default=0.0)
