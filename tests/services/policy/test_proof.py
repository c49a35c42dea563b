"""Which engine in another process is believed to serve the bytes that were verified."""

import pathlib
import time

import pytest

from trimtab.core import errors
from trimtab.policy import proof

HERE = "http://127.0.0.1:8000"
START = "vllm serve abc --served-model-name=abc"
REFUSED = "A shared remote engine cannot prove which weights it serves: "


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    made = tmp_path / "abc"
    made.mkdir()
    (made / "model.safetensors").write_bytes(b"weights")
    return made


def test_one_on_this_machine_started_on_the_folder_after_it_was_made_is_believed(folder: pathlib.Path) -> None:
    served = proof.Served(str(folder), time.time() + 1)
    for url in (HERE, "http://localhost:8000", "http://[::1]:8000"):
        proof.check(url, served, folder, "abc", START)


@pytest.mark.parametrize("url", ["http://vllm.example:8000", "http://10.0.0.7:8000", "vllm"])
def test_one_elsewhere_is_refused_whatever_it_says(folder: pathlib.Path, url: str) -> None:
    with pytest.raises(errors.WrongState, match=f"{REFUSED}{url} is not an address of this machine"):
        proof.check(url, proof.Served(str(folder), time.time() + 1), folder, "abc", START)


def test_one_that_serves_other_models_is_refused(folder: pathlib.Path) -> None:
    with pytest.raises(errors.WrongState, match=f"{REFUSED}.* serves no model with the id abc"):
        proof.check(HERE, None, folder, "abc", START)


def test_one_started_on_another_folder_is_refused(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.WrongState, match=f"{REFUSED}.* was started on '{tmp_path}'"):
        proof.check(HERE, proof.Served(str(tmp_path), time.time() + 1), folder, "abc", START)


def test_one_that_is_older_than_a_file_of_the_folder_is_refused(folder: pathlib.Path) -> None:
    """It has read the bytes that were there before, and would go on serving them."""
    started = time.time() + 1
    later = proof.Served(str(folder), started - 10)
    with pytest.raises(errors.WrongState, match=f"{REFUSED}.* before the verified folder was made"):
        proof.check(HERE, later, folder, "abc", START)
    with pytest.raises(errors.WrongState, match=START):
        proof.check(HERE, proof.Served(str(folder), 0.0), folder, "abc", START)
