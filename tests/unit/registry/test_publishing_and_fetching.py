"""What is fetched is what was published, every time, or the file that is not is named."""

import concurrent.futures
import dataclasses
import datetime
import hashlib
import os
import pathlib
import pickle
import shutil

import pytest

from trimtab import registry
from trimtab.core import errors, models
from trimtab.registry import manifests


def test_a_fetched_folder_holds_exactly_the_published_files(store, model_folder, draft):
    manifest = store.publish(model_folder, draft)
    folder = store.fetch(manifest.id)
    fetched = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    published = {
        path.relative_to(model_folder).as_posix(): path.read_bytes()
        for path in model_folder.rglob("*")
        if path.is_file()
    }
    assert fetched == published
    assert [file.path for file in manifest.files] == sorted(published)


def test_the_manifest_says_all_that_the_draft_said(store, model_folder, draft):
    read = store.manifest(store.publish(model_folder, draft).id)
    for field in dataclasses.fields(registry.ManifestDraft):
        assert getattr(read, field.name) == getattr(draft, field.name), field.name


def test_publishing_again_changes_nothing_and_gives_the_same_id(store, model_folder, draft, tmp_path):
    first = store.publish(model_folder, draft)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "registry" / "manifests").iterdir()}
    later = dataclasses.replace(draft, created_at=draft.created_at + datetime.timedelta(hours=1), generation=7)
    later = dataclasses.replace(later, imported_by="ann", imported_from="/models/other")
    again = store.publish(model_folder, later)
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "registry" / "manifests").iterdir()} == before


@pytest.mark.parametrize(
    "change",
    [
        {"parents": ("c" * 64,)},
        {"kind": models.ModelKind.REWARD},
        {"settings": {"steps": 21}},
        {"tenant": "other"},
        {"passed": False},
        {"gates": ()},
    ],
)
def test_another_claim_about_the_same_files_is_another_model(store, model_folder, draft, change):
    first = store.publish(model_folder, draft)
    other = store.publish(model_folder, dataclasses.replace(draft, **change))
    assert other.id != first.id
    assert other.loaded_digest == first.loaded_digest


def test_a_changed_prompt_is_another_model(store, model_folder, draft):
    first = store.publish(model_folder, draft)
    (model_folder / "chat_template.jinja").write_text("{{ messages }} be brief")
    second = store.publish(model_folder, draft)
    assert (second.id, second.loaded_digest) != (first.id, first.loaded_digest)


def test_the_loaded_digest_is_that_of_the_sorted_list_of_files(store, model_folder, draft):
    manifest = store.publish(model_folder, draft)
    assert manifest.loaded_digest == registry.digest_of(tuple(reversed(manifest.files)))


def test_a_figure_that_is_not_finite_survives_the_manifest(store, model_folder, draft):
    gate = models.GateFigure("nll", float("inf"), 0.69, False)
    manifest = store.publish(model_folder, dataclasses.replace(draft, gates=(gate,), passed=False))
    assert store.manifest(manifest.id).gates == (gate,)


def test_settings_that_are_no_json_are_refused_and_nothing_is_listed(store, model_folder, draft):
    with pytest.raises(errors.InvalidField, match="settings"):
        store.publish(model_folder, dataclasses.replace(draft, settings={"rate": float("nan")}))
    assert store.list() == []


def test_models_are_listed_oldest_first(store, model_folder, draft):
    ids = [
        store.publish(
            model_folder,
            dataclasses.replace(
                draft, method=method, created_at=draft.created_at + datetime.timedelta(seconds=position)
            ),
        ).id
        for position, method in enumerate(("sft", "ppo", "dpo"))
    ]
    assert [manifest.id for manifest in store.list()] == ids


def test_an_address_names_the_manifest(store, model_folder, draft):
    manifest = store.publish(model_folder, draft)
    assert store.announcement(manifest).uri.endswith(f"/registry/manifests/{manifest.id}.json")


@pytest.mark.parametrize("model_id", ["0" * 64, "../secrets", "", "A" * 64])
def test_an_unknown_model_is_not_found(store, model_id):
    with pytest.raises(errors.NotFound):
        store.fetch(model_id)


def test_many_publishers_and_readers_at_once_end_with_one_whole_model(store, model_folder, draft, tmp_path):
    def publish_and_fetch(number: int) -> str:
        own = registry.Registry(f"file://{tmp_path}/registry", tmp_path / "cache")
        manifest = own.publish(model_folder, dataclasses.replace(draft, generation=3))
        return own.fetch(manifest.id).name

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(publish_and_fetch, range(16)))) == 1
    assert len(store.list()) == 1
    leftovers = [path for path in tmp_path.rglob(".*") if path.name not in (".", "..")]
    assert leftovers == []


def _published(store, model_folder, draft) -> tuple[str, pathlib.Path]:
    manifest = store.publish(model_folder, draft)
    return manifest.id, store.fetch(manifest.id)


def _truncate(folder: pathlib.Path) -> str:
    os.truncate(folder / "model.safetensors", 100)
    return "model.safetensors"


def _flip(folder: pathlib.Path) -> str:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return "model.safetensors"


def _add(folder: pathlib.Path) -> str:
    (folder / "extra.json").write_text("{}")
    return "extra.json"


def _remove(folder: pathlib.Path) -> str:
    (folder / "config.json").unlink()
    return "config.json"


@pytest.mark.parametrize("damage", [_truncate, _flip, _add, _remove])
def test_a_damaged_local_copy_is_refused_by_name_and_the_next_fetch_heals_it(store, model_folder, draft, damage):
    model_id, folder = _published(store, model_folder, draft)
    name = damage(folder)
    with pytest.raises(errors.ArtifactCorrupt, match=name):
        store.fetch(model_id)
    assert not folder.exists()
    assert (store.fetch(model_id) / "config.json").exists()


def test_a_damaged_blob_is_refused_by_name_until_it_is_published_again(store, model_folder, draft, tmp_path):
    manifest = store.publish(model_folder, draft)
    weights = next(file for file in manifest.files if file.path == "model.safetensors")
    blob = tmp_path / "registry" / "blobs" / "sha256" / weights.sha256
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x00")
    with pytest.raises(errors.ArtifactCorrupt, match=r"model\.safetensors"):
        store.fetch(manifest.id)
    assert not (tmp_path / "cache" / manifest.id).exists()
    store.publish(model_folder, draft)
    assert store.fetch(manifest.id).is_dir()


def test_a_missing_blob_is_named(store, model_folder, draft, tmp_path):
    manifest = store.publish(model_folder, draft)
    (tmp_path / "registry" / "blobs" / "sha256" / manifest.files[0].sha256).unlink()
    with pytest.raises(errors.ArtifactCorrupt, match=manifest.files[0].path):
        store.fetch(manifest.id)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    "change", [lambda text: text.replace('"passed":true', '"passed":false'), lambda text: text[:40], lambda text: "[]"]
)
def test_a_changed_manifest_is_refused(store, model_folder, draft, tmp_path, change):
    manifest = store.publish(model_folder, draft)
    path = tmp_path / "registry" / "manifests" / f"{manifest.id}.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(errors.ArtifactCorrupt, match=manifest.id):
        store.fetch(manifest.id)


def test_a_crash_before_the_manifest_leaves_nothing_to_read(store, model_folder, draft, tmp_path):
    manifest = store.publish(model_folder, draft)
    (tmp_path / "registry" / "manifests" / f"{manifest.id}.json").unlink()
    assert store.list() == []
    assert store.publish(model_folder, draft) == manifest


@pytest.fixture
def published(store, model_folder, draft):
    return store.publish(model_folder, draft)


@pytest.mark.parametrize(
    ("name", "sentence"), [("pytorch_model.bin", "can run code when it is opened"), ("w.safetensors", "no safetensors")]
)
def test_a_manifest_that_somebody_wrote_by_hand_brings_no_pickle_in(store, published, tmp_path, name, sentence):
    content = pickle.dumps([1])
    evil = registry.File(name, len(content), hashlib.sha256(content).hexdigest())
    draft = {field.name: getattr(published, field.name) for field in dataclasses.fields(registry.ManifestDraft)}
    forged = manifests.complete(registry.ManifestDraft(**draft), (*published.files, evil))
    (tmp_path / "registry" / "blobs" / "sha256" / evil.sha256).write_bytes(content)
    (tmp_path / "registry" / "manifests" / f"{forged.id}.json").write_bytes(manifests.to_json(forged))
    with pytest.raises(errors.ArtifactCorrupt, match=sentence):
        store.fetch(forged.id)


def test_an_object_store_serves_the_same_model(model_folder, draft, tmp_path):
    remote = registry.Registry(f"memory://{tmp_path.name}/registry", tmp_path / "remote-cache")
    local = registry.Registry(f"file://{tmp_path}/registry", tmp_path / "cache")
    manifest = remote.publish(model_folder, dataclasses.replace(draft, generation=2))
    assert local.publish(model_folder, draft).id == manifest.id
    assert sorted(path.name for path in remote.fetch(manifest.id).iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer",
    ]
    assert remote.list() == [manifest]
    with pytest.raises(errors.StaleGeneration):
        remote.publish(model_folder, dataclasses.replace(draft, generation=1))


def test_a_link_is_published_as_the_file_it_stands_for(store, model_folder, draft, tmp_path):
    shutil.move(model_folder / "config.json", tmp_path / "elsewhere.json")
    (model_folder / "config.json").symlink_to(tmp_path / "elsewhere.json")
    folder = store.fetch(store.publish(model_folder, draft).id)
    assert not (folder / "config.json").is_symlink()
    assert (folder / "config.json").read_text() == '{"model_type": "tiny"}'
