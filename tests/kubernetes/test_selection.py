"""A run of everything leaves out what a machine is not ready for, and says so; who names a test gets it."""

import pathlib

import pytest
from tests.kubernetes import selection

ROOT = pathlib.Path(__file__).parents[2]


def test_a_run_of_everything_leaves_out_what_is_not_built_and_says_so(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for everything in (["tests"], ["."], [str(ROOT)], ["tests/unit", "tests"]):
        reasons = selection.left_out(everything, ROOT)
        assert set(reasons) == {selection.CONTROL_PLANE, selection.REAL_NODE, selection.INSTALLED}
        assert "make kubernetes-test" in reasons[selection.REAL_NODE]


@pytest.mark.parametrize(
    "asked", ["tests/kubernetes", "tests/kubernetes/test_real_node.py::test_logs", "tests/unit", "tests/conftest.py"]
)
def test_who_names_them_gets_them_and_nobody_else_hears_of_it(
    asked: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert selection.left_out([asked], ROOT) == {}
