"""What the topics say about every line: its anchor, its published models, its quarantines, the newest
generation that published.

Folded from `rollouts` and `models` at every start by threads of `trainer.app`; read by `trainer.triggers` (is there an
anchor?) and `trainer.publishing` (is it announced already, am I fenced off?). Nothing here is stored.
"""

import threading

from trimtab.bus import port
from trimtab.core import models, releases
from trimtab.wire import schemas

# A release that has not taken traffic says nothing yet about the line, and a failed one never will.
_UNPROVEN = frozenset({releases.ReleaseState.PENDING, releases.ReleaseState.VERIFYING, releases.ReleaseState.FAILED})


class Known:
    """Safe to read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._releases: dict[tuple[str, str], releases.Release] = {}
        self._models: dict[str, models.PublishedModel] = {}
        self._generations: dict[tuple[str, str], int] = {}
        self._quarantines: dict[tuple[str, str], dict[str, releases.Quarantine]] = {}

    def apply_release(self, record: port.Record) -> None:
        """One record of topic `rollouts`."""
        if not record.value:  # a tombstone
            return
        self.see_release(schemas.decode(record.value, record.headers, releases.Release))

    def apply_model(self, record: port.Record) -> None:
        """One record of topic `models`."""
        if not record.value:
            return
        self.see_model(schemas.decode(record.value, record.headers, models.PublishedModel))

    def see_release(self, release: releases.Release) -> None:
        if release.quarantine is not None:
            line = (release.context.tenant, release.context.line)
            with self._lock:
                self._quarantines[line] = self._quarantines.get(line, {}) | {release.id: release.quarantine}
        if release.state in _UNPROVEN or not release.anchor_id:
            return
        with self._lock:
            self._releases[(release.context.tenant, release.context.line)] = release

    def see_model(self, model: models.PublishedModel) -> None:
        line = (model.context.tenant, model.context.line)
        with self._lock:
            self._models[model.id] = model
            self._generations[line] = max(model.generation, self._generations.get(line, 0))

    def anchor(self, tenant: str, line: str) -> str:
        """The policy a line is anchored to; empty until it has adopted one."""
        with self._lock:
            release = self._releases.get((tenant, line))
        return release.anchor_id if release else ""

    def quarantines(self, tenant: str, line: str) -> dict[str, releases.Quarantine]:
        """By release id, also those that were released again."""
        with self._lock:
            return self._quarantines.get((tenant, line), {})

    def model(self, model_id: str) -> models.PublishedModel | None:
        with self._lock:
            return self._models.get(model_id)

    def generation(self, tenant: str, line: str) -> int:
        """The newest generation that has published on this line; 0 when none has."""
        with self._lock:
            return self._generations.get((tenant, line), 0)
