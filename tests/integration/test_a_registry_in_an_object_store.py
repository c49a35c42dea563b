"""The registry over S3's API: a server that speaks it, in a process of its own, and the client that production has."""

import dataclasses
import pathlib
import sys
import uuid
from collections.abc import Iterator

import fsspec
import pytest
from tests import serving
from tests.unit.registry import conftest as small

from trimtab import registry
from trimtab.core import errors
from trimtab.rpc import ports

model_folder, draft = small.model_folder, small.draft


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = ports.free_port()
    url = f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("store") / "moto.log"
    with serving.serving([sys.executable, "-m", "moto.server", "-p", str(port)], url, log):
        yield url


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new one, and how a process is told where it is."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    name = f"models-{uuid.uuid4().hex[:8]}"
    fsspec.filesystem("s3").mkdir(name, region_name="eu-central-1")
    return name


def store(bucket: str, cache: pathlib.Path) -> registry.Registry:
    return registry.Registry(f"s3://{bucket}/models", cache)


def test_what_one_machine_publishes_another_fetches_verified(
    bucket: str, model_folder: pathlib.Path, draft: registry.ManifestDraft, tmp_path: pathlib.Path
) -> None:
    published = store(bucket, tmp_path / "one").publish(model_folder, draft)
    there = store(bucket, tmp_path / "two")
    assert there.list() == [published]
    folder = there.fetch(published.id)
    for path in filter(pathlib.Path.is_file, model_folder.rglob("*")):
        assert (folder / path.relative_to(model_folder)).read_bytes() == path.read_bytes()
    assert there.publish(model_folder, draft).id == published.id


def test_bytes_that_were_changed_in_the_store_are_never_loaded(
    bucket: str, model_folder: pathlib.Path, draft: registry.ManifestDraft, tmp_path: pathlib.Path
) -> None:
    published = store(bucket, tmp_path / "one").publish(model_folder, draft)
    weights = next(file for file in published.files if file.path == "model.safetensors")
    objects = fsspec.filesystem("s3")
    objects.pipe_file(f"{bucket}/models/blobs/sha256/{weights.sha256}", small.safetensors(b"other"))
    with pytest.raises(errors.ArtifactCorrupt, match=r"bytes of 'model\.safetensors' are not those"):
        store(bucket, tmp_path / "two").fetch(published.id)
    store(bucket, tmp_path / "three").publish(model_folder, draft)  # who has them puts them right
    store(bucket, tmp_path / "two").fetch(published.id)


def test_what_is_not_there_is_not_found(bucket: str, tmp_path: pathlib.Path) -> None:
    there = store(bucket, tmp_path / "cache")
    assert there.list() == []
    with pytest.raises(errors.NotFound):
        there.manifest("a" * 64)


def test_a_writer_of_an_older_generation_is_fenced_off(
    bucket: str, model_folder: pathlib.Path, draft: registry.ManifestDraft, tmp_path: pathlib.Path
) -> None:
    store(bucket, tmp_path / "new").publish(model_folder, dataclasses.replace(draft, generation=5))
    with pytest.raises(errors.StaleGeneration, match="5 has published"):
        store(bucket, tmp_path / "old").publish(model_folder, dataclasses.replace(draft, generation=4, method="late"))


@pytest.mark.parametrize(
    "told", [{"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, {"AWS_ACCESS_KEY_ID": ""}], ids=["away", "without a key"]
)
def test_a_store_that_cannot_be_reached_is_said_with_its_address(
    bucket: str,
    model_folder: pathlib.Path,
    draft: registry.ManifestDraft,
    monkeypatch: pytest.MonkeyPatch,
    told: dict[str, str],
) -> None:
    published = store(bucket, model_folder.parent / "one").publish(model_folder, draft)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    there = store(bucket, model_folder.parent / "two")
    for ask in (there.list, lambda: there.fetch(published.id), lambda: there.publish(model_folder, draft)):
        with pytest.raises(errors.ServiceUnavailable, match=rf"registry at s3://{bucket}/models cannot be reached"):
            ask()
