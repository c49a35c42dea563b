"""Killed while something is published or fetched, the registry holds all of it or nothing; trying again mends it."""

import dataclasses
import pathlib

import pytest
from tests.faults import killing

from trimtab import registry
from trimtab.core import errors, models

WALKED = [*killing.under("registry.", "files.settle.")]
FILES = {"config.json": "{}", "examples.jsonl": '{"id": 1}\n'}
# Made durable in turn: the fence, each file, the manifest.
SETTLED = [f"{point}:{nth}" for point in killing.under("files.settle.") for nth in range(1, len(FILES) + 3)]
BLOBS = [f"{point}:{nth}" for point in killing.under("registry.publish.") for nth in (1, 2) if "manifest" not in point]
DRAFT = registry.ManifestDraft(kind=models.ModelKind.DATASET, tenant="acme", line="support", generation=3)


def opened(folder: pathlib.Path) -> registry.Registry:
    return registry.Registry(f"file://{folder}/registry", folder / "cache")


def publish(folder: pathlib.Path) -> None:
    opened(folder).publish(folder / "made", DRAFT)


def fetch(folder: pathlib.Path, model_id: str) -> None:
    opened(folder).fetch(model_id)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "made").mkdir()
    for name, content in FILES.items():
        (tmp_path / "made" / name).write_text(content)
    return tmp_path


@pytest.mark.parametrize("point", [*SETTLED, *BLOBS, "registry.publish.before_manifest"])
def test_what_is_listed_is_whole_and_publishing_again_gives_the_same_id(point: str, folder: pathlib.Path) -> None:
    killing.kill(point, publish, folder)
    for manifest in opened(folder).list():
        opened(folder).fetch(manifest.id)
    published = opened(folder).publish(folder / "made", DRAFT)
    assert [manifest.id for manifest in opened(folder).list()] == [published.id]
    assert {path.name: path.read_text() for path in opened(folder).fetch(published.id).iterdir()} == FILES
    with pytest.raises(errors.StaleGeneration):
        opened(folder).publish(folder / "made", dataclasses.replace(DRAFT, generation=2))


@pytest.mark.parametrize("point", killing.under("registry.fetch."))
def test_a_fetch_that_was_interrupted_is_made_anew(point: str, folder: pathlib.Path) -> None:
    published = opened(folder).publish(folder / "made", DRAFT)
    killing.kill(point, fetch, folder, published.id)
    assert {path.name: path.read_text() for path in opened(folder).fetch(published.id).iterdir()} == FILES
