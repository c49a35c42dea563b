"""A backup holds what was acknowledged before it began, and a restored folder is the same or does not come to be."""

import dataclasses
import json
import pathlib
import threading

import pytest
from tests.unit.ledger import making
from typer.testing import CliRunner

from trimtab import registry
from trimtab.bus import connect, publish, topics
from trimtab.cli.commands import root
from trimtab.cli.machine import platform
from trimtab.cli.operators import backups
from trimtab.core import clock, errors, models, text
from trimtab.rpc import secrets
from trimtab.trainer.data import store
from trimtab.wire import schemas


@pytest.fixture
def state(tmp_path: pathlib.Path) -> pathlib.Path:
    """A platform's folder with a vote, a finished run and one under way."""
    folder = tmp_path / "state"
    secrets.create(folder / "secrets.toml", making.TENANT)
    (folder / "lines.toml").write_text("[lines.main]\n")
    vote(folder, 0)
    store.Store(folder / "trainer" / "trainer.db").close()
    for name, ended in (("ended", True), ("open", False)):
        run = folder / "trainer" / "runs" / name
        run.mkdir(parents=True)
        (run / "started.json").write_text("{}")
        if ended:
            (run / "result.json").write_text("{}")
    return folder


def vote(folder: pathlib.Path, number: int) -> None:
    log = connect.open_log(platform.Layout(folder).log_url)
    publish.publish(log, topics.FEEDBACK, b"k", making.thumb(making.completion("s", number), f"f{number}")).result()
    log.close()


def votes(folder: pathlib.Path) -> int:
    log = connect.open_log(platform.Layout(folder).log_url)
    ends = log.end_offsets(topics.FEEDBACK.name)
    log.close()
    return sum(ends.values())


def test_a_restored_folder_has_all_but_what_is_made_again(state: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (state / "ledger.sqlite").write_text("made again")
    (state / "cache").mkdir()
    backups.back_up(state, tmp_path / "b", as_json=False)
    vote(state, 1)
    backups.restore(tmp_path / "b", tmp_path / "new", as_json=False)
    assert votes(tmp_path / "new") == 1
    known, before = secrets.load(tmp_path / "new" / "secrets.toml"), secrets.load(state / "secrets.toml")
    assert known.internal_token != before.internal_token
    assert dataclasses.replace(known, internal_token=before.internal_token) == before
    assert (tmp_path / "new" / "secrets.toml").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new" / "trainer" / "trainer.db").exists()
    assert [run.name for run in (tmp_path / "new" / "trainer" / "runs").iterdir()] == ["ended"]
    assert not (tmp_path / "new" / "ledger.sqlite").exists()
    assert not (tmp_path / "new" / "cache").exists()


def test_models_published_meanwhile_are_whole_where_the_log_names_them(
    state: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    layout, stop, published = platform.Layout(state), threading.Event(), threading.Semaphore(0)

    def publish_models() -> None:
        log, artifacts = connect.open_log(layout.log_url), registry.Registry(layout.registry_url, layout.cache)
        number = 0
        while not stop.is_set():
            made = tmp_path / f"model-{number}"
            made.mkdir()
            for part in range(5):
                (made / f"{part}.json").write_text(json.dumps([number, part]))
            draft = registry.ManifestDraft(
                kind=models.ModelKind.DATASET, tenant="acme", line="main", created_at=clock.utc_now(), generation=1
            )
            model = models.PublishedModel(
                id=artifacts.publish(made, draft).id,
                context=text.Context("acme", "main"),
                kind=models.ModelKind.DATASET,
                published_at=clock.utc_now(),
                generation=1,
            )
            publish.publish(log, topics.MODELS, model.id.encode(), model).result()
            number += 1
            published.release()
        log.close()

    thread = threading.Thread(target=publish_models)
    thread.start()
    try:
        for attempt in range(3):
            for _ in range(5):
                assert published.acquire(timeout=30)
            backups.back_up(state, tmp_path / f"b{attempt}", as_json=False)
    finally:
        stop.set()
        thread.join()
    for attempt in range(3):
        new = platform.Layout(tmp_path / f"new{attempt}")
        backups.restore(tmp_path / f"b{attempt}", new.state, as_json=False)
        artifacts = registry.Registry(new.registry_url, new.cache)
        log = connect.open_log(new.log_url)
        reader = log.reader(dict.fromkeys(log.end_offsets(topics.MODELS.name), 0))
        records = reader.poll(1000, 0.0)
        assert len(records) >= 5 * (attempt + 1)
        for record in records:
            artifacts.fetch(schemas.decode(record.value, record.headers, models.PublishedModel).id)
        for manifest in (new.state / "registry" / "manifests").iterdir():
            artifacts.fetch(manifest.stem)
        reader.close()
        log.close()


def test_a_backup_that_is_damaged_or_not_whole_restores_nothing(state: pathlib.Path, tmp_path: pathlib.Path) -> None:
    backup = tmp_path / "b"
    backups.back_up(state, backup, as_json=False)
    lines = backup / "lines.toml"
    lines.write_text("[lines.other]\n")
    with pytest.raises(errors.ArtifactCorrupt, match=r"lines\.toml is not what was backed up"):
        backups.restore(backup, tmp_path / "new", as_json=False)
    lines.unlink()
    with pytest.raises(errors.ArtifactCorrupt, match=r"lines\.toml is missing"):
        backups.restore(backup, tmp_path / "new", as_json=False)
    (backup / "backup.json").unlink()
    with pytest.raises(errors.NotFound, match="whole backup"):
        backups.restore(backup, tmp_path / "new", as_json=False)
    assert not (tmp_path / "new").exists()


def test_nothing_that_is_there_is_written_over(state: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.WrongState, match="not empty"):
        backups.back_up(state, state, as_json=False)
    backups.back_up(state, tmp_path / "b", as_json=False)
    with pytest.raises(errors.WrongState, match="not empty"):
        backups.restore(tmp_path / "b", state, as_json=False)
    with pytest.raises(errors.NotFound, match="platform"):
        backups.back_up(tmp_path / "nowhere", tmp_path / "c", as_json=False)


def test_a_log_on_kafka_is_not_in_the_folder_and_that_is_said(state: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (state / "log.url").write_text("kafka://broker:9092/ours-\n")
    with pytest.raises(errors.WrongState, match="Kafka's own tools"):
        backups.back_up(state, tmp_path / "b", as_json=False)
    assert not (tmp_path / "b").exists()


def test_for_programs_it_is_json(state: pathlib.Path, tmp_path: pathlib.Path) -> None:
    told = CliRunner().invoke(root.app, ["backup", str(tmp_path / "b"), "--state", str(state), "--json"])
    document = json.loads(told.stdout)
    assert document["log"] == {"feedback/" + next(iter(document["log"])).split("/")[1]: 1}
    assert "log.sqlite" in document["files"]
