"""`trimtab models fetch`: verified files in a folder, or a sentence."""

import pathlib

import pytest

from trimtab import registry
from trimtab.cli.commands import root
from trimtab.core import models


@pytest.fixture
def published(tmp_path: pathlib.Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    draft = registry.ManifestDraft(kind=models.ModelKind.POLICY, tenant="acme", line="support", method="imported")
    return registry.Registry(f"file://{tmp_path}/registry", tmp_path / "other").publish(folder, draft).id


def typed(tmp_path: pathlib.Path, model: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """(exit code, standard output, standard error)"""
    places = ("--registry", f"file://{tmp_path}/registry", "--cache", str(tmp_path / "deep" / "cache"))
    with pytest.raises(SystemExit) as end:
        root.run(["models", "fetch", model, *places])
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def test_it_prints_the_folder_with_exactly_the_files_twice_the_same(
    tmp_path: pathlib.Path, published: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert typed(tmp_path, published, capsys) == (0, f"{tmp_path}/deep/cache/{published}\n", "")
        folder = tmp_path / "deep" / "cache" / published
        assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_bytes_that_were_not_published_are_refused_and_gone(
    tmp_path: pathlib.Path, published: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(tmp_path, published, capsys)[0] == 0
    folder = tmp_path / "deep" / "cache" / published
    (folder / "config.json").write_text('{"model_type": "huge"}')
    code, out, err = typed(tmp_path, published, capsys)
    assert (code, out) == (1, "")
    assert "the bytes of 'config.json' are not those that were published" in err
    assert not folder.exists()


def test_a_model_that_is_not_there_is_a_sentence(
    tmp_path: pathlib.Path, published: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = typed(tmp_path, "0" * 64, capsys)
    assert (code, out) == (1, "")
    assert err.startswith("trimtab: ") and "0" * 64 in err
