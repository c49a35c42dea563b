"""The reward models in memory: loaded when first asked for, the least recently used one goes.

Used by the scoring thread alone (`reward.scoring`), which is why loading needs no lock; what it holds may be read by
the door.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Protocol

from trimtab import registry
from trimtab.core import errors, models, scoring
from trimtab.obs import logging

_log = logging.get(__name__)


class RewardModel(Protocol):
    """`modeling.rewards.LoadedReward`, as far as this service knows it."""

    def score(self, items: Sequence[scoring.ScoreItem], batch: int) -> list[scoring.Score]: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory, and the digest of the bytes it was loaded from."""

    model: RewardModel
    digest: str


class Shelf:
    """load: from a verified folder to a model; ArtifactCorrupt when it is none."""

    def __init__(
        self, artifacts: registry.Registry, load: Callable[[pathlib.Path], RewardModel], max_loaded: int
    ) -> None:
        self._registry = artifacts
        self._load = load
        self._max_loaded = max_loaded
        self._loaded: collections.OrderedDict[str, Loaded] = collections.OrderedDict()
        self._problems: dict[str, str] = {}

    def take(self, model_id: str) -> Loaded:
        """The model, loaded now if need be. ArtifactCorrupt when its bytes are not what was published."""
        if model_id in self._loaded:
            self._loaded.move_to_end(model_id)
            return self._loaded[model_id]
        try:
            folder = self._registry.fetch(model_id)
            loaded = Loaded(self._load(folder), self._registry.manifest(model_id).loaded_digest)
        except (errors.ArtifactCorrupt, errors.NotFound) as problem:
            self._problems[model_id] = str(problem)
            raise
        self._problems.pop(model_id, None)
        while len(self._loaded) >= self._max_loaded:
            gone, _ = self._loaded.popitem(last=False)
            _log.info("reward model let go", model=gone)
        self._loaded[model_id] = loaded
        _log.info("reward model loaded", model=model_id, digest=loaded.digest)
        return loaded

    def status(self, model: models.PublishedModel) -> scoring.RewardModelStatus:
        """Whether the model is in memory, and why it could not be loaded if that was tried."""
        loaded = self._loaded.get(model.id)
        return scoring.RewardModelStatus(
            model_id=model.id,
            line=model.context.line,
            loaded=loaded is not None,
            loaded_digest=loaded.digest if loaded else "",
            problem=self._problems.get(model.id, ""),
        )
