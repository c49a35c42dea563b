"""What the topics say about every line: anchor, live policy, releases, quarantines, published models, generation.

Folded from `rollouts` and `models` at every start by threads of `trainer.app`; read by `trainer.runs.triggers` (where
does a cycle start, what became of its candidate?) and `trainer.links.publishing` (is it announced already, am I fenced
off?). Nothing here is stored.
"""

import threading

from trimtab.bus import letters, port
from trimtab.core import completions, models, releases
from trimtab.wire import schemas


class Known:
    """Safe to read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By line, then by release id: the newest record of each.
        self._releases: dict[tuple[str, str], dict[str, releases.Release]] = {}
        self._models: dict[str, models.PublishedModel] = {}
        self._fence = models.Fence()
        # Where `models` was read to.
        self._read_to = 0
        self._read_on = threading.Condition(self._lock)

    def apply_release(self, record: port.Record) -> None:
        """One record of topic `rollouts`."""
        if not record.value:  # a tombstone
            return
        self.see_release(schemas.decode(record.value, record.headers, releases.Release))

    def apply_model(self, record: port.Record) -> None:
        """One record of topic `models`."""
        try:
            if record.value:
                model = schemas.decode(record.value, record.headers, models.PublishedModel)
                self.see_model(model, letters.first_offset(record))
        finally:  # one that cannot be read is a dead letter, and the next one's turn
            with self._read_on:
                self._read_to = record.offset + 1
                self._read_on.notify_all()

    def await_record(self, offset: int, timeout_s: float) -> bool:
        """Whether the record of topic `models` at that offset was read within so many seconds."""
        with self._read_on:
            return self._read_on.wait_for(lambda: self._read_to > offset, timeout_s)

    def see_release(self, release: releases.Release) -> None:
        line = (release.context.tenant, release.context.line)
        with self._lock:
            by_id = self._releases.setdefault(line, {})
            if release.id not in by_id or by_id[release.id].revision <= release.revision:
                by_id[release.id] = release

    def see_model(self, model: models.PublishedModel, offset: int) -> None:
        """offset: where the record stood first."""
        with self._lock:
            if self._fence.admits(model, offset):
                self._models[model.id] = model

    def anchor_and_live(self, tenant: str, line: str) -> tuple[str, str]:
        """The policy a line is anchored to, and the one that serves its users (of two, the stable one).

        Both as the line's newest record says, so that they belong together; empty until it has adopted one.
        """
        with self._lock:
            every = self._releases.get((tenant, line), {}).values()
            head = max(every, key=lambda release: release.revision, default=None)
        if head is None:
            return "", ""
        stable = (target.policy_id for target in head.arms if target.arm is completions.Arm.STABLE)
        return head.anchor_id, next(stable, "")

    def release_of(self, tenant: str, line: str, model_id: str) -> releases.Release | None:
        """The newest release of a policy; None while there has been none."""
        with self._lock:
            every = self._releases.get((tenant, line), {}).values()
            mine = [release for release in every if release.candidate_id == model_id]
        return max(mine, key=lambda release: (release.created_at, release.id), default=None)

    def quarantines(self, tenant: str, line: str) -> dict[str, releases.Quarantine]:
        """By release id, also those that were released again."""
        with self._lock:
            every = self._releases.get((tenant, line), {}).items()
            return {release_id: release.quarantine for release_id, release in every if release.quarantine is not None}

    def model(self, model_id: str) -> models.PublishedModel | None:
        with self._lock:
            return self._models.get(model_id)

    def incumbent(self, tenant: str, line: str) -> str:
        """The line's latest reward model that passed its gates and is not in quarantine; empty when there is none."""
        held = releases.held_rewards(self.quarantines(tenant, line).values())
        with self._lock:
            mine = [
                model
                for model in self._models.values()
                if (model.context.tenant, model.context.line) == (tenant, line)
                and model.kind is models.ModelKind.REWARD
                and model.passed
                and model.id not in held
            ]
        # by when, not by arrival: a repeated announcement does not make an old model the latest
        return max(reversed(mine), key=lambda model: model.published_at).id if mine else ""

    def generation(self, tenant: str, line: str) -> int:
        """The newest generation that has published on this line; 0 when none has."""
        with self._lock:
            return self._fence.generation(tenant, line)
