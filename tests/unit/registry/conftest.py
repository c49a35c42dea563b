"""A folder of a small model as it would be published, without torch."""

import json
import pathlib
import struct

import pytest

from trimtab import registry
from trimtab.core import models


def safetensors(values: bytes) -> bytes:
    """One tensor "w" of bytes, in the safetensors format."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(values)], "data_offsets": [0, len(values)]}}).encode()
    return struct.pack("<Q", len(header)) + header + values


@pytest.fixture
def model_folder(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "model"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(safetensors(bytes(range(256)) * 40))
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def draft() -> registry.ManifestDraft:
    return registry.ManifestDraft(
        kind=models.ModelKind.POLICY,
        tenant="acme",
        line="support",
        method="sft",
        parents=("a" * 64,),
        datasets=("b" * 64,),
        run_id="run-1",
        gates=(models.GateFigure("win_rate", 0.61, 0.5, True, "share of held-out prompts"),),
        settings={"learning_rate": 1e-4, "steps": 20},
        versions={"torch": "2.15"},
    )


@pytest.fixture
def store(tmp_path: pathlib.Path) -> registry.Registry:
    return registry.Registry(f"file://{tmp_path}/registry", tmp_path / "cache")
