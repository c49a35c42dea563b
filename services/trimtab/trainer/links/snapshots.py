"""A run's weights on their way, for the process that draws its answers: a registry of one policy for each.

    snapshots/6/    the weights after 6 iterations, under an id of their own

A policy process serves one policy for life (`trimtab policy --registry-url file://RUN/snapshots/6 --model-id ID`), so
newer weights are another process at the same address. `trainer.methods.remote_rollouts` takes them and counts how far
behind an answer's are; `trimtab train sampler` starts the processes. Nothing of it is announced, and none of it is left
when the run has ended.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable

from trimtab import registry
from trimtab.core import failpoints, models, text
from trimtab.obs import logging

FOLDER = "snapshots"
_log = logging.get(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """iteration: so many were done."""

    iteration: int
    registry_url: str
    model_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshots:
    """Of one run. folder: the run's."""

    folder: pathlib.Path

    def take(self, iteration: int, context: text.Context, parent_id: str, save: Callable[[pathlib.Path], None]) -> None:
        """Writes down the weights of now, whole and durable; nothing where that was done before a crash."""
        if self._read(iteration) is not None:
            return
        scratch = self.folder / FOLDER / "writing"
        shutil.rmtree(scratch, ignore_errors=True)
        save(scratch)
        draft = registry.ManifestDraft(
            kind=models.ModelKind.POLICY,
            tenant=context.tenant,
            line=context.line,
            method="snapshot",
            parents=(parent_id,) if parent_id else (),
            settings={"iteration": iteration},
        )
        failpoints.reach("trainer.snapshots.before_publish")
        model_id = self._registry(iteration).publish(scratch, draft).id
        failpoints.reach("trainer.snapshots.taken")
        shutil.rmtree(scratch)
        _log.info("weights written down for the sampler", iteration=iteration, url=self._url(iteration), model=model_id)

    def all(self) -> list[Snapshot]:
        """Every one there was, oldest first, those whose weights are gone among them."""
        numbers = sorted(int(path.name) for path in (self.folder / FOLDER).glob("*") if path.name.isdigit())
        return [found for number in numbers if (found := self._read(number)) is not None]

    def forget_weights(self, before: int) -> None:
        """Drops those of snapshots older than that iteration."""
        for one in self.all():
            if one.iteration < before:
                shutil.rmtree(self.folder / FOLDER / str(one.iteration) / "blobs", ignore_errors=True)

    def _url(self, iteration: int) -> str:
        return f"file://{self.folder.absolute() / FOLDER / str(iteration)}"

    def _registry(self, iteration: int) -> registry.Registry:
        return registry.Registry(self._url(iteration), self.folder / FOLDER / "cache")

    def _read(self, iteration: int) -> Snapshot | None:
        found = self._registry(iteration).list()
        return Snapshot(iteration, self._url(iteration), found[0].id) if found else None
