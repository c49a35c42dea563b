"""Which reward models exist: folded from topic `models`.

A thread of `reward.app` feeds it, `reward.scoring` resolves names in it. A model published while the service runs can
be asked for at once; nothing is loaded before it is.
"""

import threading

from trimtab.bus import letters, port
from trimtab.core import errors, models
from trimtab.wire import schemas

LATEST = "@latest"
_KINDS = frozenset({models.ModelKind.REWARD, models.ModelKind.EVALUATION_REWARD})


class Catalog:
    """Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[str, models.PublishedModel] = {}
        self._fence = models.Fence()

    def apply(self, record: port.Record) -> None:
        """One record of topic `models`; an empty value forgets its key."""
        if not record.value:
            with self._lock:
                self._models.pop(record.key.decode(errors="replace"), None)
            return
        model = schemas.decode(record.value, record.headers, models.PublishedModel)
        if self._fence.admits(model, letters.first_offset(record)) and model.kind in _KINDS:
            with self._lock:
                # an announcement that is repeated does not make an old model the latest
                self._models.setdefault(model.id, model)

    def resolve(self, name: str) -> models.PublishedModel:
        """The model of this id, or the latest reward model of `line@latest` that passed its gates; UnknownModel."""
        with self._lock:
            if name in self._models:
                return self._models[name]
            line = name.removesuffix(LATEST)
            if line != name:
                usable = [
                    model
                    for model in reversed(self._models.values())
                    if model.context.line == line and model.kind is models.ModelKind.REWARD and model.passed
                ]
                if usable:
                    return max(usable, key=lambda model: model.published_at)
        raise errors.UnknownModel(name, self._known_lines())

    def all(self) -> tuple[models.PublishedModel, ...]:
        """Oldest first."""
        with self._lock:
            return tuple(self._models.values())

    def _known_lines(self) -> tuple[str, ...]:
        with self._lock:
            lines = {model.context.line for model in self._models.values() if model.kind is models.ModelKind.REWARD}
        return tuple(f"{line}{LATEST}" for line in sorted(lines))
