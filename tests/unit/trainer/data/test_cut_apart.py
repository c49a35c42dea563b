"""A cut is made by a process of its own, from the database that its trainer goes on writing."""

import pathlib
import sys
from collections.abc import Callable

import pytest
import sqlalchemy
from tests.services.trainer.conftest import LINE, TENANT, example, received

from trimtab.core import errors, examples, lines, text
from trimtab.trainer import cut
from trimtab.trainer.data import cuts, cutting, datasets, store


@pytest.fixture
def database(tmp_path: pathlib.Path) -> store.Store:
    return store.Store(tmp_path / "a folder? #1" / "trainer.db")


def order(database: store.Store, folder: pathlib.Path, arrival: int = 8) -> cut.Order:
    weighting = lines.WeightConfig(gold_raters=("ann",), reliability_overlap=2)
    return cut.Order(database.path, folder, TENANT, LINE, arrival, 200, {"example-0003": "bad"}, weighting)


def add(connection: sqlalchemy.Connection, *numbers: int) -> None:
    kind = examples.ThumbExample(text.Text("Turn the dial."), up=True)
    store.add_examples(connection, [received(example(number, kind)) for number in numbers])


def test_it_leaves_what_a_cut_in_this_process_would_whatever_is_written_meanwhile(
    database: store.Store, tmp_path: pathlib.Path
) -> None:
    with database.transaction() as connection:
        add(connection, *range(8))
    asked = order(database, tmp_path / "apart")
    with database.transaction() as connection:
        add(connection, 8, 9)
        cuts._cut_apart(asked)
    with database.reading() as connection:
        stored = store.examples_until(connection, TENANT, LINE, 8)
    here = cutting.cut(stored, asked.per_rater, asked.quarantined, asked.weighting)
    datasets.write(tmp_path / "here", here.examples, here.members, here.watermarks, here.weighting)
    for name in (datasets.EXAMPLES_FILE, datasets.MEMBERS_FILE, datasets.CARD_FILE):
        assert (tmp_path / "apart" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    assert len(datasets.read_members(tmp_path / "apart")) == 8


def test_of_a_line_without_examples_it_leaves_nothing(database: store.Store, tmp_path: pathlib.Path) -> None:
    cuts._cut_apart(order(database, tmp_path / "apart"))
    assert not (tmp_path / "apart").exists()


@pytest.fixture
def dying(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has every cut end as the words in a shell say."""

    def with_words(words: str) -> None:
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\ncat > /dev/null\n{words}\n")
        python.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(python))

    return with_words


def test_one_that_is_killed_may_be_tried_again_and_a_defect_is_told(
    database: store.Store, tmp_path: pathlib.Path, dying: Callable[[str], None]
) -> None:
    dying("kill -9 $$")
    with pytest.raises(errors.ServiceUnavailable, match="killed by SIGKILL; look whether it needs more memory"):
        cuts._cut_apart(order(database, tmp_path / "apart"))
    dying("echo 'no such table' >&2; exit 1")
    with pytest.raises(RuntimeError, match="ended with 1: no such table"):
        cuts._cut_apart(order(database, tmp_path / "apart"))
