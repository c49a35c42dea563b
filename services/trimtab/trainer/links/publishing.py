"""Publishes what runs and cuts made: lease, registry, then topic `models`; only after that is a run a success.

`trainer.runs.worker` and `trainer.data.cuts` call it from worker threads. The order makes a crash harmless: content
addressing gives a repeated publish the same id (neither time nor generation is part of it), and what the topic, read to
its end, holds already (`trainer.links.known`) is not announced again. The lease on a line comes from the ledger; its
generation is in the manifest and the record, and fences off a trainer that slept through its lease: the registry
refuses it, and nobody who reads the topic counts its record (`models.Fence`), so that an announcement is read back
before it is believed. Who is fenced off tries again, under a lease of now.
"""

import dataclasses
import pathlib
from typing import Any

from trimtab import registry
from trimtab.bus import port, publish, topics
from trimtab.core import errors, failpoints, models, runs
from trimtab.trainer.links import known, ledger_link

# What publishing waits out: nothing was lost, and trying again is safe.
NOT_NOW = (
    ledger_link.NotYet,
    errors.ServiceUnavailable,
    errors.DeadlineExceeded,
    errors.LogUnavailable,
    errors.StaleGeneration,
)
_READ_BACK_S = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """One model of a run's result. folder: where the job left it; kind, method, gates and passed as it judged them."""

    folder: pathlib.Path
    kind: models.ModelKind
    method: str
    gates: tuple[models.GateFigure, ...]
    passed: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What a job left in its run folder. started: what it depended on, for whoever runs it again; journal: a folder,
    what other processes told it, None where it asked nobody."""

    started: dict[str, Any]
    outputs: tuple[Output, ...]
    figures: dict[str, float]
    settings: dict[str, Any]
    versions: dict[str, str]
    journal: pathlib.Path | None = None


class Publisher:
    """The one way models and data sets leave this process."""

    def __init__(
        self,
        *,
        log: port.EventLog,
        store: registry.Registry,
        topics_say: known.Known,
        link: ledger_link.LedgerLink,
        config_digest: str,
    ) -> None:
        self._log = log
        self._registry = store
        self._known = topics_say
        self._ledger = link
        self._config_digest = config_digest

    def publish_result(self, run: runs.Run, result: Result) -> tuple[str, ...]:
        """The ids of the run's models, in the order of its outputs: published and announced, durably."""
        generation = self._generation(run.spec.tenant, run.spec.line)
        # what a reward model is compared with has no part in what it is
        reward_id = "" if run.spec.kind is runs.RunKind.REWARD else run.spec.reward_id
        parents = (run.spec.parent_id, run.spec.reference_id, reward_id, run.spec.evaluation_reward_id)
        record: dict[str, Any] = {"training": result.settings, "started": result.started}
        if result.journal is not None:
            record["journal"] = self._publish_journal(run, result.journal, generation)
        ids = []
        for output in result.outputs:
            draft = registry.ManifestDraft(
                kind=output.kind,
                tenant=run.spec.tenant,
                line=run.spec.line,
                method=output.method,
                parents=tuple(dict.fromkeys(parent for parent in parents if parent)),
                datasets=(run.spec.dataset_id,) if run.spec.dataset_id else (),
                run_id=run.id,
                gates=output.gates,
                passed=output.passed,
                generation=generation,
                settings=record,
                versions=result.versions,
            )
            ids.append(self._publish(output.folder, draft))
        return tuple(ids)

    def publish_dataset(self, tenant: str, line: str, folder: pathlib.Path, card: dict[str, Any]) -> str:
        """The id of a data set cut from feedback: published and announced, durably."""
        draft = registry.ManifestDraft(
            kind=models.ModelKind.DATASET,
            tenant=tenant,
            line=line,
            method="cut",
            generation=self._generation(tenant, line),
            settings={"card": card},
        )
        return self._publish(folder, draft)

    def models_of(self, run: runs.Run) -> tuple[models.PublishedModel, ...]:
        """The models a run has published, as they were announced."""
        return tuple(self._announcement(model_id) for model_id in run.model_ids)

    def _publish_journal(self, run: runs.Run, folder: pathlib.Path, generation: int) -> str:
        """The id of what a run was told by other processes. Announced to nobody: only who makes it again wants it."""
        draft = registry.ManifestDraft(
            kind=models.ModelKind.DATASET,
            tenant=run.spec.tenant,
            line=run.spec.line,
            method="journal",
            generation=generation,
        )
        return self._registry.publish(folder, draft).id

    def _publish(self, folder: pathlib.Path, draft: registry.ManifestDraft) -> str:
        manifest = self._registry.publish(folder, draft)
        failpoints.reach("trainer.publish.before_announcement")
        self._require_all_read()
        if self._known.model(manifest.id) is None:
            # a manifest that was published before a crash names the generation of then
            model = dataclasses.replace(self._announcement(manifest.id), generation=draft.generation)
            [position] = publish.publish(self._log, topics.MODELS, manifest.id.encode(), model).result()
            failpoints.reach("trainer.publish.announced")
            self._require_counted(model, position.offset)
        return manifest.id

    def _require_all_read(self) -> None:
        """LogUnavailable unless what the topic holds is known: an announcement that timed out may stand in it."""
        end = max(self._log.end_offsets(topics.MODELS.name).values(), default=0)
        if end and not self._known.await_record(end - 1, _READ_BACK_S):
            raise errors.LogUnavailable(f"Topic `models` was not read to its end within {_READ_BACK_S:g} s.")

    def _announcement(self, model_id: str) -> models.PublishedModel:
        return self._registry.announcement(self._registry.manifest(model_id), self._config_digest)

    def _require_counted(self, model: models.PublishedModel, offset: int) -> None:
        """StaleGeneration when somebody with a newer lease stands before the record, so that nobody counts it."""
        if not self._known.await_record(offset, _READ_BACK_S):
            raise errors.LogUnavailable(f"The announcement of {model.id} was not read back within {_READ_BACK_S:g} s.")
        if self._known.model(model.id) is None:
            seen = self._known.generation(model.context.tenant, model.context.line)
            raise errors.StaleGeneration(model.generation, seen)

    def _generation(self, tenant: str, line: str) -> int:
        """Takes or renews the lease on the line. StaleGeneration when fenced off."""
        held = self._ledger.generation(tenant, line)
        failpoints.reach("trainer.publish.leased")
        seen = self._known.generation(tenant, line)
        if seen > held:
            raise errors.StaleGeneration(held, seen)
        return held
