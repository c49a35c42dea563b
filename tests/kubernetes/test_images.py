"""Images are built from a Dockerfile as it is published, and anew only when something that they hold has changed."""

import json
import os
import pathlib
import tarfile
import time

import pytest
from tests.kubernetes import images
from tests.kubernetes.tools import binaries

NAME = "localhost/trimtab-test-small:1"


@pytest.mark.kubernetes
@pytest.mark.real_node
@pytest.mark.slow
def test_a_dockerfile_runs_on_a_debian_with_python_and_takes_what_it_may_copy(tmp_path: pathlib.Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("print('copied')")
    (tmp_path / "secret").write_text("not for an image")
    (tmp_path / "Dockerfile").write_text(
        "ARG BASE=python:3.11-slim\nFROM ${BASE}\nARG WORD\nCOPY . /all\n"
        'RUN python /all/code/a.py > /said && echo "$WORD" >> /said && python -m venv /environment\n'
    )
    image = images.Image(NAME, tmp_path / "Dockerfile", tmp_path, ["code"], {"WORD": "given"})
    built = image.archive()
    assert image.is_built()
    files: dict[str, tarfile.TarInfo] = {}
    with tarfile.open(built) as archive:
        (manifest,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert manifest["RepoTags"] == [NAME]
        with tarfile.open(fileobj=archive.extractfile(manifest["Layers"][-1])) as layer:
            files = {entry.name.removeprefix("./"): entry for entry in layer}
            said = layer.extractfile(files["said"])
            assert said is not None and said.read() == b"copied\ngiven\n"
    assert {"all/code/a.py", "environment/bin/python"} <= set(files)
    assert "all/secret" not in files
    before = built.stat().st_ino
    assert image.archive().stat().st_ino == before
    built.unlink()


def test_an_image_is_another_when_its_content_is_another(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    program = tmp_path / "program"
    program.write_bytes(b"one")
    one = images.of_a_program(NAME, program)
    assert images.of_a_program(NAME, program) == one
    program.write_bytes(b"two")
    two = images.of_a_program(NAME, program)
    assert two != one
    assert images.of_a_program("localhost/other:1", program) != two
    # what nobody has asked for since yesterday goes when the next of its name is made
    os.utime(one, (time.time() - 2 * 86400,) * 2)
    program.write_bytes(b"three")
    three = images.of_a_program(NAME, program)
    kept = set((binaries.kept() / "images").glob("trimtab-test-small-*"))
    assert kept == {two, three}
    # and of those of one day all but the two that were asked for last
    made = []
    for content in (b"four", b"five"):
        program.write_bytes(content)
        made.append(images.of_a_program(NAME, program))
    kept = set((binaries.kept() / "images").glob("trimtab-test-small-*"))
    assert kept == {three, *made}
