"""What models there are: folded from topic `models`, and asked of the registry where more is needed.

`Shelf.apply` is called by the thread that follows the topic (`rollout.app`), the rest by the controller and the verbs.
"""

import asyncio

from trimtab import registry
from trimtab.bus import port
from trimtab.core import models
from trimtab.wire import schemas


class Shelf:
    def __init__(self, artifacts: registry.Registry) -> None:
        self._artifacts = artifacts
        # Replaced, never changed in place: written by one thread, read by another.
        self._published: dict[str, models.PublishedModel] = {}
        self._digests: dict[str, str] = {}

    def apply(self, record: port.Record) -> None:
        """One record of topic `models`."""
        if record.value:
            model = schemas.decode(record.value, record.headers, models.PublishedModel)
            self._published = self._published | {model.id: model}

    def of_line(self, tenant: str, name: str) -> list[models.PublishedModel]:
        known = self._published.values()
        return [model for model in known if (model.context.tenant, model.context.line) == (tenant, name)]

    async def find(self, model_id: str) -> models.PublishedModel:
        """The model, also one that was published without being announced; NotFound when there is none."""
        known = self._published.get(model_id)
        if known is not None:
            return known
        manifest = await asyncio.to_thread(self._artifacts.manifest, model_id)
        return self._artifacts.announcement(manifest)

    async def loaded_digest(self, model_id: str) -> str:
        """What a replica of the model has to report; NotFound or ArtifactCorrupt when there is no sound manifest."""
        if model_id not in self._digests:
            manifest = await asyncio.to_thread(self._artifacts.manifest, model_id)
            self._digests[model_id] = manifest.loaded_digest
        return self._digests[model_id]
