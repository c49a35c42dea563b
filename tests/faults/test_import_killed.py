"""A model import killed anywhere is on the audit trail just when it was done, once tried again or once `up` comes."""

import contextlib
import pathlib

import pytest
import safetensors.numpy
from tests.faults import killing

from trimtab.bus import port
from trimtab.bus.sqlite import SqliteLog
from trimtab.cli.machine import artifacts, platform
from trimtab.core import audit
from trimtab.wire import schemas

POINTS = [*killing.under("registry.publish.", "trail."), *(f"files.settle.before_rename:{nth}" for nth in (1, 2, 3))]


def bring(folder: pathlib.Path) -> None:
    artifacts.import_policy(platform.Layout(folder / "state"), folder / "model", "local", "main", "ann")


def come_up(folder: pathlib.Path) -> None:
    """What `trimtab up` does about it before it starts anything."""
    artifacts.note_imports(platform.Layout(folder / "state"))


def acts(folder: pathlib.Path) -> list[audit.AuditRecord]:
    log = SqliteLog(folder / "state" / "log.sqlite")
    with contextlib.closing(log.reader({port.TopicPartition("audit", 0): 0})) as reader:
        found = [schemas.decode(record.value, record.headers, audit.AuditRecord) for record in reader.poll(99, 0.0)]
    log.close()
    return found


def models(folder: pathlib.Path) -> list[str]:
    return [manifest.id for manifest in artifacts.open_registry(platform.Layout(folder / "state")).list()]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A platform that does not run, and a model to bring."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "lines.toml").write_text('[lines.main]\ntenant = "local"\n')
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    safetensors.numpy.save_file({}, tmp_path / "model" / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize("point", POINTS)
def test_an_import_that_was_killed_is_on_the_trail_when_it_was_done(point: str, folder: pathlib.Path) -> None:
    killing.kill(point, bring, folder)
    assert {act.target for act in acts(folder)} <= set(models(folder))
    killing.run(come_up, folder)
    assert [act.target for act in acts(folder)] == models(folder)
    killing.run(bring, folder)
    [act] = acts(folder)
    assert [act.target] == models(folder)
    assert (act.act, act.actor, act.reason) == ("model.import", "ann", "from folder model")


def test_the_same_folder_again_is_no_other_act_and_another_one_is(folder: pathlib.Path) -> None:
    for _ in range(2):
        bring(folder)
    (folder / "model" / "generation_config.json").write_text("{}")
    bring(folder)
    assert [act.target for act in acts(folder)] == models(folder)
    assert len(models(folder)) == 2
