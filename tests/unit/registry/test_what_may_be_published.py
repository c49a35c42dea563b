"""Weights are safetensors; nothing that runs code when it is opened gets in."""

import pathlib
import pickle
import struct

import pytest

from trimtab.core import errors


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt", "state.pkl", "modeling_tiny.py", "a/b/w.bin"]
)
def test_a_file_that_can_run_code_is_refused_by_name(store, model_folder, draft, tmp_path, name):
    path = model_folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(errors.ArtifactCorrupt, match=name):
        store.publish(model_folder, draft)
    assert not list((tmp_path / "registry").rglob("blobs"))


@pytest.mark.parametrize("name", ["README.md", ".gitattributes", "weights", "model.onnx"])
def test_a_file_of_no_known_kind_is_refused_by_name(store, model_folder, draft, name):
    (model_folder / name).write_text("x")
    with pytest.raises(errors.ArtifactCorrupt, match=name):
        store.publish(model_folder, draft)


def _cut(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _pickled(path: pathlib.Path) -> None:
    path.write_bytes(pickle.dumps({"w": [1.0] * 100}))


def _appended(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes() + b"hidden")


def _short(path: pathlib.Path) -> None:
    path.write_bytes(b"\x01")


def _no_json(path: pathlib.Path) -> None:
    path.write_bytes(struct.pack("<Q", 4) + b"\xff\xff\xff\xff")


def _list(path: pathlib.Path) -> None:
    path.write_bytes(struct.pack("<Q", 2) + b"[]")


def _strange(path: pathlib.Path) -> None:
    path.write_bytes(struct.pack("<Q", 8) + b'{"w": 1}')


@pytest.mark.parametrize("damage", [_cut, _pickled, _appended, _short, _no_json, _list, _strange])
def test_weights_whose_header_does_not_fit_the_file_are_refused(store, model_folder, draft, damage):
    damage(model_folder / "model.safetensors")
    with pytest.raises(errors.ArtifactCorrupt, match=r"model\.safetensors"):
        store.publish(model_folder, draft)


def test_an_empty_folder_is_refused(store, draft, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.InvalidField, match="folder"):
        store.publish(tmp_path / "empty", draft)
