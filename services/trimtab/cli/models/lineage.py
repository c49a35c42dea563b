"""`trimtab models lineage`: what a model or data set was made from, what was made from it, where it was released.

The family comes from the registry, whether the platform runs or not; releases come from the rollout controller.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trimtab import registry
from trimtab.cli import show
from trimtab.cli.machine import artifacts, platform
from trimtab.cli.models import inspecting
from trimtab.core import control, errors, models, releases
from trimtab.trainer.data import datasets

# Fields of a run's specification, with what the model that was made owes them.
_ROLES = {
    "parent_id": "weights from",
    "reference_id": "anchored to",
    "reward_id": "rewarded by",
    "evaluation_reward_id": "judged by",
    "dataset_id": "trained on",
}
# For models that were published without the record of their run.
_ROLE_OF_KIND = {
    models.ModelKind.REWARD: "rewarded by",
    models.ModelKind.EVALUATION_REWARD: "judged by",
    models.ModelKind.DATASET: "trained on",
}
_DISPOSITIONS = (datasets.TRAINED, datasets.HELD_OUT, datasets.REJECTED)
_KINDS = {
    models.ModelKind.REWARD: "reward model",
    models.ModelKind.EVALUATION_REWARD: "evaluation reward model",
    models.ModelKind.DATASET: "data set",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """`made` was made from `source` by `run`. roles: e.g. ("weights from", "anchored to")."""

    made: str
    source: str
    run: str
    roles: tuple[str, ...]


class Family:
    """Everything a registry holds, by what was made from what."""

    def __init__(self, manifests: Iterable[registry.Manifest]) -> None:
        self.members = {manifest.id: manifest for manifest in manifests}
        self._sources: dict[str, list[Link]] = {name: [] for name in self.members}
        self._uses: dict[str, list[Link]] = {name: [] for name in self.members}
        for manifest in self.members.values():
            for link in self._links(manifest):
                self._sources[manifest.id].append(link)
                self._uses[link.source].append(link)

    def sources(self, model_id: str) -> Sequence[Link]:
        """What a model was made from."""
        return self._sources[model_id]

    def uses(self, model_id: str) -> Sequence[Link]:
        """What was made from it, oldest first."""
        return self._uses[model_id]

    def ancestors(self, model_id: str) -> list[Link]:
        """Every link on the ways back to what was made from nothing, nearest first."""
        return self._reached(model_id, lambda name: self._sources[name], lambda link: link.source)

    def descendants(self, model_id: str) -> list[Link]:
        """Every link on the ways forward, nearest first."""
        return self._reached(model_id, lambda name: self._uses[name], lambda link: link.made)

    def _links(self, manifest: registry.Manifest) -> list[Link]:
        spec = _record(manifest)
        found = []
        for source in dict.fromkeys((*manifest.parents, *manifest.datasets)):
            if source in self.members:
                said = tuple(role for field, role in _ROLES.items() if spec.get(field) == source)
                roles = said or (_ROLE_OF_KIND.get(self.members[source].kind, "weights from"),)
                found.append(Link(manifest.id, source, manifest.run_id, roles))
        order = list(_ROLES.values())
        return sorted(found, key=lambda link: order.index(link.roles[0]))

    @staticmethod
    def _reached(model_id: str, links_of: Any, end_of: Any) -> list[Link]:
        reached, seen, waiting = [], {model_id}, [model_id]
        while waiting:
            for link in links_of(waiting.pop(0)):
                reached.append(link)
                if end_of(link) not in seen:
                    seen.add(end_of(link))
                    waiting.append(end_of(link))
        return reached


def _record(manifest: registry.Manifest) -> Mapping[str, Any]:
    """The specification of the run that made a model; empty when it was published without."""
    started = manifest.settings.get("started")
    spec = started.get("spec") if isinstance(started, dict) else None
    return spec if isinstance(spec, dict) else {}


async def lineage(state: pathlib.Path, prefix: str, as_json: bool) -> None:
    """Prints the tree of a model or data set."""
    layout = platform.Layout(state)
    family = Family(artifacts.open_registry(layout).list())
    model_id = artifacts.resolve(layout, prefix)
    released = await releases_of(layout)
    screen = show.Screen(as_json)
    if as_json:
        screen.json(_document(family, model_id, released))
        return
    screen.tree(tree(family, model_id, released))
    if released is None:
        screen.say("\nWhere it was released is known while the platform runs: `trimtab up`.")


async def releases_of(layout: platform.Layout) -> list[releases.Release] | None:
    """Every release of the platform, oldest first; None when it does not run."""
    try:
        async with platform.doors(layout) as doors:
            listed = await doors.rollout.list_releases(control.ListReleasesRequest(doors.facts.tenant), timeout_s=10)
    except (errors.NotFound, errors.ServiceUnavailable):
        return None
    return sorted(listed, key=lambda release: release.created_at)


def tree(family: Family, model_id: str, released: Sequence[releases.Release] | None) -> show.Twig:
    """Back to what it began with, then forward to what became of it."""
    root = show.Twig(describe(family.members[model_id]))
    back = show.Twig("made from", _back(family, model_id, {model_id}))
    forward = show.Twig("went into", _forward(family, model_id, released or (), {model_id}))
    out = show.Twig("released", _released(model_id, released or ()))
    root.twigs = [twig for twig in (back, forward, out) if twig.twigs]
    return root


def _back(family: Family, model_id: str, seen: set[str]) -> list[show.Twig]:
    links = family.sources(model_id)
    twigs = []
    for link in links:
        known = link.source in seen
        seen.add(link.source)
        words = f"{' and '.join(link.roles)} {describe(family.members[link.source])}"
        twigs.append(show.Twig(f"{words} (see above)") if known else show.Twig(words, _back(family, link.source, seen)))
    return _under_run(family.members[model_id], twigs)


def _under_run(manifest: registry.Manifest, twigs: list[show.Twig]) -> list[show.Twig]:
    return [show.Twig(f"{manifest.run_id}, {_run(manifest)}", twigs)] if manifest.run_id else twigs


def _forward(family: Family, model_id: str, released: Sequence[releases.Release], seen: set[str]) -> list[show.Twig]:
    runs: dict[str, show.Twig] = {}
    for link in family.uses(model_id):
        made = family.members[link.made]
        words = f"{link.run or 'no run'}, {_run(made)}, {' and '.join(link.roles)} it"
        run = runs.setdefault(link.run, show.Twig(words))
        if link.made in seen:
            run.twigs.append(show.Twig(f"{describe(made)} (see above)"))
            continue
        seen.add(link.made)
        further = [*_released(made.id, released), *_forward(family, made.id, released, seen)]
        run.twigs.append(show.Twig(describe(made), further))
    return list(runs.values())


def _released(model_id: str, released: Sequence[releases.Release]) -> list[show.Twig]:
    return [
        show.Twig(f"release {release.id}, {platform.describe_release(release)}")
        for release in released
        if release.candidate_id == model_id
    ]


def _run(manifest: registry.Manifest) -> str:
    label = _record(manifest).get("label")
    return f"{manifest.method} “{label}”" if label else manifest.method


def kind(of: models.ModelKind) -> str:
    """A kind of model as people say it."""
    return _KINDS.get(of, of.value)


def describe(manifest: registry.Manifest) -> str:
    """A model or data set in a line."""
    words = f"{kind(manifest.kind)} {manifest.id[: show.SHORT]}"
    if manifest.kind is models.ModelKind.DATASET:
        used = manifest.settings.get("card", {}).get("dispositions", {})
        counts = ", ".join(f"{used[name]:,} {name}" for name in _DISPOSITIONS if used.get(name))
        return f"{words} ({'of a file' if manifest.method == 'file' else 'cut from feedback'}: {counts})"
    if manifest.gates:
        words += ", gates passed" if manifest.passed else ", refused at its gates"
    return words if manifest.run_id else f"{words}, {manifest.method}"


def _document(family: Family, model_id: str, released: Sequence[releases.Release] | None) -> dict[str, Any]:
    above, below = family.ancestors(model_id), family.descendants(model_id)
    candidates = {model_id, *(link.made for link in below)}
    return {
        "model": inspecting.plain(family.members[model_id]),
        "ancestors": [inspecting.plain(family.members[name]) for name in dict.fromkeys(link.source for link in above)],
        "descendants": [inspecting.plain(family.members[name]) for name in dict.fromkeys(link.made for link in below)],
        "links": [dataclasses.asdict(link) for link in (*above, *below)],
        "releases": None
        if released is None
        else [inspecting.plain(release) for release in released if release.candidate_id in candidates],
    }
