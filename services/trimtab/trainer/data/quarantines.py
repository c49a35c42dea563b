"""What may not be trained with: data windows and reward models that led to a candidate users found worse.

The fact is in the release's record (topic `rollouts`, folded by `trainer.links.known`); which examples a window holds
follows from the members of the two data sets it lies between. Asked by `trainer.data.cuts`, `trainer.runs.triggers`,
`trainer.runs.requests` and `trainer.runs.worker`. Decision 0006.
"""

import functools
import pathlib
from collections.abc import Iterable
from typing import Protocol

from trimtab.core import errors
from trimtab.trainer.data import datasets
from trimtab.trainer.links import known, ledger_link

_USED = frozenset({datasets.TRAINED, datasets.HELD_OUT})


class Artifacts(Protocol):
    """The part of `registry.Registry` that is needed here."""

    def fetch(self, model_id: str) -> pathlib.Path: ...


class Quarantines:
    """From any thread."""

    def __init__(self, topics_say: known.Known, artifacts: Artifacts) -> None:
        self._known = topics_say
        self._artifacts = artifacts
        self._used = functools.lru_cache(maxsize=64)(self._read_used)

    def in_force(self, tenant: str, line: str) -> tuple[str, ...]:
        """The releases whose quarantine holds now, in order."""
        return tuple(release_id for release_id, held in self._known.quarantines(tenant, line).items() if held.in_force)

    def examples(self, tenant: str, line: str, release_ids: Iterable[str]) -> dict[str, str]:
        """The examples that the quarantines of these releases hold or held, each with why.

        NotYet while that cannot be read: nothing may be cut without knowing.
        """
        said = self._known.quarantines(tenant, line)
        reasons: dict[str, str] = {}
        for release_id in release_ids:
            held = said[release_id]
            try:
                window = self._used(held.dataset_id) - self._used(held.previous_dataset_id)
            except (errors.NotFound, errors.ArtifactCorrupt, OSError) as problem:
                raise ledger_link.NotYet(
                    f"What release {release_id} has in quarantine is unknown: {problem}"
                ) from problem
            reasons |= dict.fromkeys(
                window, f"quarantined: its data set led to release {release_id}, which ended worse"
            )
        return reasons

    def check_reward(self, tenant: str, line: str, reward_id: str, field: str) -> None:
        """InvalidField, of this field, when nothing may learn from this reward model."""
        for release_id, held in self._known.quarantines(tenant, line).items():
            if held.in_force and reward_id in held.reward_ids:
                raise errors.InvalidField(
                    field,
                    f"names reward model {reward_id[:12]}, in quarantine since release {release_id} ended worse",
                    f"name another one, or let it go with `trimtab quarantine release {release_id}`",
                )

    def _read_used(self, dataset_id: str) -> frozenset[str]:
        if not dataset_id:
            return frozenset()
        members = datasets.read_members(self._artifacts.fetch(dataset_id))
        return frozenset(member.example_id for member in members if member.disposition in _USED)
