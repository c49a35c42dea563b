"""What people may ask of the trainer: start, read, watch and cancel runs. Called by `trainer.servicer`.

A request is refused here, with the field and the remedy, or it is a run that can start: the job finds no surprise in
its inputs. Operators' acts are noted with their effect (`trainer.runs.audits`); a request that is tried again is
answered with what it did.
"""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Mapping

from trimtab import registry
from trimtab.core import audit, clock, errors, ids, lines, models, runs, text
from trimtab.trainer import recipes
from trimtab.trainer.data import quarantines, store
from trimtab.trainer.links import publishing
from trimtab.trainer.runs import audits, runbook

# Who acts when a request does not say.
_OPERATOR = "operator"
_POLICIES = frozenset({models.ModelKind.BASE, models.ModelKind.POLICY})
# What a reward model may start from.
_BODIES = _POLICIES | {models.ModelKind.REWARD}
_KINDS: dict[str, frozenset[models.ModelKind]] = {
    "parent_id": _POLICIES,
    "reference_id": _POLICIES,
    "reward_id": frozenset({models.ModelKind.REWARD}),
    "evaluation_reward_id": frozenset({models.ModelKind.EVALUATION_REWARD}),
    "dataset_id": frozenset({models.ModelKind.DATASET}),
}


def merged_settings(line: lines.LineConfig, kind: runs.RunKind, settings_json: str) -> str:
    """The run's settings over the line's; the result is what the run depends on. InvalidField for a bad one."""
    try:
        asked = json.loads(settings_json or "{}")
    except ValueError as problem:
        raise errors.InvalidField("spec.settings_json", f"is no JSON ({problem})", "send an object") from problem
    if not isinstance(asked, dict):
        raise errors.InvalidField("spec.settings_json", "is no object", "send an object of settings")
    merged = json.dumps({**line.training.get(kind.value, {}), **asked}, sort_keys=True)
    recipes.parse(kind, merged)
    return merged


def check_training(configured: Mapping[str, lines.LineConfig], processes: int = 1) -> None:
    """Refuses a line whose settings no run could take, or whose cycles have no method, or one that so many processes
    cannot take together. InvalidField names the key."""
    methods = [kind.value for kind in recipes.METHODS]
    policies = [kind.value for kind, one in recipes.METHODS.items() if issubclass(one.settings, recipes.PolicySettings)]
    for line in configured.values():
        if line.trigger.method not in policies:
            where = f"lines.{line.name}.trigger.method"
            raise errors.InvalidField(where, f"is {line.trigger.method!r}", f"use one of {', '.join(policies)}")
        for method in line.training:
            if method not in methods:
                where = f"lines.{line.name}.training.{method}"
                raise errors.InvalidField(where, "is no method of this version", f"use one of {', '.join(methods)}")
            merged_settings(line, runs.RunKind(method), "{}")
        if line.trigger.examples:
            for kind in (runs.RunKind.REWARD, runs.RunKind(line.trigger.method)):
                settings = recipes.parse(kind, merged_settings(line, kind, "{}"))
                recipes.check_processes(kind, settings, processes, f"lines.{line.name}.trigger.")


def learned_from(kind: runs.RunKind) -> str:
    """The field of a spec that names the reward model a run learns from; with its own a reward run only compares."""
    return "parent_id" if kind is runs.RunKind.REWARD else "reward_id"


class Requests:
    """The domain methods behind the trainer's door."""

    def __init__(
        self,
        *,
        database: store.Store,
        book: runbook.Runbook,
        publisher: publishing.Publisher,
        artifacts: registry.Registry,
        audits: audits.Audits,
        held: quarantines.Quarantines,
        configured: Mapping[str, lines.LineConfig],
        processes: int = 1,
    ) -> None:
        """processes: of a job."""
        self._processes = processes
        self._database = database
        self._book = book
        self._publisher = publisher
        self._registry = artifacts
        self._audits = audits
        self._quarantines = held
        self._lines = configured

    async def start(self, request: runs.StartRunRequest) -> runs.Run:
        """Queues a run after every check, with its settings resolved."""
        return await asyncio.to_thread(self._start, request)

    async def get(self, request: runs.GetRunRequest) -> runs.GetRunResponse:
        """The run and the models it has published."""
        return await asyncio.to_thread(self._get, request)

    async def list(self, request: runs.ListRunsRequest) -> tuple[runs.Run, ...]:
        """The tenant's runs, oldest first."""
        return await asyncio.to_thread(self._book.find, request.tenant, request.line)

    def watch(self, request: runs.GetRunRequest) -> AsyncIterator[runs.Run]:
        """The run now and after every change, until it has ended."""
        return self._book.watch(request.tenant, request.run_id)

    async def cancel(self, request: runs.CancelRunRequest) -> runs.Run:
        """Ends a queued run, asks a running one to end."""
        return await asyncio.to_thread(self._cancel, request)

    def _start(self, request: runs.StartRunRequest) -> runs.Run:
        # what was done stays done, whatever has changed since: a reward model under quarantine, a line's settings
        with self._database.reading() as connection:
            run_id = self._audits.target(connection, request.request_id)
        if not run_id:
            run_id = self._ask(request, self._checked(request.spec))
        self._audits.publish()
        return self._book.get(request.spec.tenant, run_id)

    def _ask(self, request: runs.StartRunRequest, spec: runs.RunSpec) -> str:
        with self._database.transaction() as connection:
            run_id = self._audits.target(connection, request.request_id)
            if not run_id:
                run_id = self._book.ask(connection, spec, request.actor or _OPERATOR)
                reason = request.reason or f"{spec.kind.value} {spec.label}".strip()
                self._audits.note(connection, _acted(request, spec.line, "run.start", run_id, reason))
        self._book.changed()
        return run_id

    def _get(self, request: runs.GetRunRequest) -> runs.GetRunResponse:
        run = self._book.get(request.tenant, request.run_id)
        return runs.GetRunResponse(run, self._publisher.models_of(run))

    def _cancel(self, request: runs.CancelRunRequest) -> runs.Run:
        run = self._book.get(request.tenant, request.run_id)
        with self._database.transaction() as connection:
            done = self._audits.target(connection, request.request_id)
            if not done and self._book.cancel(connection, run.id):
                self._audits.note(connection, _acted(request, run.spec.line, "run.cancel", run.id, request.reason))
        self._book.changed()
        self._audits.publish()
        return self._book.get(request.tenant, run.id)

    def _checked(self, spec: runs.RunSpec) -> runs.RunSpec:
        line = self._lines.get(spec.line)
        if line is None or line.tenant != spec.tenant:
            raise errors.NotFound("line", spec.line)
        settings_json = merged_settings(line, spec.kind, spec.settings_json)
        recipes.check_processes(spec.kind, recipes.parse(spec.kind, settings_json), self._processes, "spec.")
        if "reference_id" in recipes.METHODS[spec.kind].needs and not spec.reference_id:
            spec = dataclasses.replace(spec, reference_id=spec.parent_id)
        for field in _KINDS:
            self._check_input(spec, field)
        learned = learned_from(spec.kind)
        self._quarantines.check_reward(spec.tenant, spec.line, getattr(spec, learned), f"spec.{learned}")
        return dataclasses.replace(spec, settings_json=settings_json)

    def _check_input(self, spec: runs.RunSpec, field: str) -> None:
        model_id = getattr(spec, field)
        if not model_id:
            if field in recipes.METHODS[spec.kind].needs:
                raise errors.InvalidField(f"spec.{field}", "is empty", f"name one for a {spec.kind.value} run")
            return
        manifest = self._registry.manifest(model_id)
        if manifest.tenant != spec.tenant:
            raise errors.NotFound("artifact", model_id)
        kinds = _BODIES if (field, spec.kind) == ("parent_id", runs.RunKind.REWARD) else _KINDS[field]
        if manifest.kind not in kinds:
            wanted = " or ".join(sorted(kind.value for kind in kinds))
            raise errors.InvalidField(f"spec.{field}", f"names a {manifest.kind.value}", f"name a {wanted}")


def _acted(
    request: runs.StartRunRequest | runs.CancelRunRequest, line: str, act: str, target: str, reason: str
) -> audit.AuditRecord:
    tenant = request.spec.tenant if isinstance(request, runs.StartRunRequest) else request.tenant
    return audit.AuditRecord(
        id=request.request_id or str(ids.uuid7()),
        context=text.Context(tenant, line),
        at=clock.utc_now(),
        actor=request.actor or _OPERATOR,
        act=act,
        target=target,
        reason=reason,
    )
