"""What models there are: folded from topic `models`, and asked of the registry where more is needed.

`Shelf.apply` is called by the thread that follows the topic (`rollout.app`), the rest by the controller and the verbs.
"""

import asyncio
import datetime
from collections.abc import Sequence

from trimtab import registry
from trimtab.bus import letters, port
from trimtab.core import errors, models, releases
from trimtab.wire import schemas

# `PublishedModel.method` of a data set that was cut from users' feedback.
_CUT = "cut"
_SHORT = 12


class Shelf:
    def __init__(self, artifacts: registry.Registry) -> None:
        self._artifacts = artifacts
        # Replaced, never changed in place: written by one thread, read by another.
        self._published: dict[str, models.PublishedModel] = {}
        self._digests: dict[str, str] = {}
        self._fence = models.Fence()

    def apply(self, record: port.Record) -> None:
        """One record of topic `models`."""
        if record.value:
            model = schemas.decode(record.value, record.headers, models.PublishedModel)
            if self._fence.admits(model, letters.first_offset(record)):
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

    async def led_to(self, model_id: str, at: datetime.datetime) -> releases.Quarantine:
        """What a policy was made from, as it goes into quarantine: the feedback that was new to it, its reward models.

        New is what its data set was cut with and that of the line's last policy before it was not; one that its gates
        refused met no user, and does not count. What was not users' feedback is no data window.
        """
        model = await self._found(model_id)
        if model is None:
            return releases.Quarantine(at, summary="Nothing is quarantined: what it was made from cannot be read.")
        rewards = [parent for parent in model.parents if await self._is_reward(parent)]
        cuts = [dataset for dataset in model.datasets if await self._is_cut(dataset)]
        dataset = cuts[0] if cuts else ""
        previous = await self._previous_cut(model, dataset) if dataset else ""
        return releases.Quarantine(
            at=at,
            dataset_id=dataset,
            previous_dataset_id=previous,
            reward_ids=tuple(rewards),
            summary=_summary(dataset, previous, rewards),
        )

    async def _previous_cut(self, model: models.PublishedModel, dataset: str) -> str:
        earlier = [
            other
            for other in self.of_line(model.context.tenant, model.context.line)
            if other.kind is models.ModelKind.POLICY and other.passed and other.published_at < model.published_at
        ]
        for other in sorted(earlier, key=lambda one: one.published_at, reverse=True):
            for source in other.datasets:
                if source != dataset and await self._is_cut(source):
                    return source
        return ""

    async def _is_cut(self, dataset_id: str) -> bool:
        dataset = await self._found(dataset_id)
        return dataset is not None and dataset.method == _CUT

    async def _is_reward(self, model_id: str) -> bool:
        model = await self._found(model_id)
        return model is not None and model.kind is models.ModelKind.REWARD

    async def _found(self, model_id: str) -> models.PublishedModel | None:
        try:
            return await self.find(model_id)
        except (errors.NotFound, errors.ArtifactCorrupt):
            return None


def _summary(dataset: str, previous: str, rewards: Sequence[str]) -> str:
    held = [f"reward model {reward[:_SHORT]}" for reward in rewards]
    if dataset:
        added = f"what data set {dataset[:_SHORT]} added"
        held.insert(0, f"{added} to {previous[:_SHORT]}" if previous else added)
    if dataset or rewards:
        without = "" if dataset else "; it was not trained on users' feedback, so no examples"
        return f"Quarantined: {' and '.join(held)}{without}."
    return "Nothing is quarantined: it was trained neither on users' feedback nor against a reward model."
