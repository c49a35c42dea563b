"""A state folder follows from one event log: the one it began with."""

import pathlib

import pytest

from trimtab.cli.machine import platform
from trimtab.core import errors


def test_a_folder_has_a_log_of_its_own_unless_another_was_chosen(tmp_path: pathlib.Path) -> None:
    layout = platform.Layout(tmp_path / "state")
    own = layout.log_url
    assert own == f"sqlite:///{tmp_path / 'state'}/log.sqlite"
    layout.choose_log(f"sqlite://{tmp_path / 'elsewhere.sqlite'}")
    again = platform.Layout(tmp_path / "state")
    assert again.log_url == again.environment()["TRIMTAB_LOG_URL"] == f"sqlite://{tmp_path / 'elsewhere.sqlite'}"


def test_the_choice_is_for_good(tmp_path: pathlib.Path) -> None:
    layout = platform.Layout(tmp_path)
    layout.choose_log("sqlite:///one")
    layout.choose_log("sqlite:///one")
    with pytest.raises(errors.InvalidField, match=r"`--log` is 'sqlite:///two', and .* follows from 'sqlite:///one'"):
        layout.choose_log("sqlite:///two")
    begun = platform.Layout(tmp_path / "begun")
    begun.state.mkdir()
    (begun.state / "log.sqlite").touch()
    with pytest.raises(errors.InvalidField, match="follows from"):
        begun.choose_log("sqlite:///one")


@pytest.mark.parametrize("url", ["kafka:", "postgres://host/db", "sqlite://relative"])
def test_what_is_no_log_is_refused_and_not_kept(url: str, tmp_path: pathlib.Path) -> None:
    layout = platform.Layout(tmp_path)
    with pytest.raises(errors.InvalidField, match="names no event log"):
        layout.choose_log(url)
    assert not layout.log_file.exists()
