"""A run of everything leaves out what needs a real vLLM: it keeps two cores busy for three minutes, and what runs
beside it waits. `make engines-test` runs these; so does who names them."""

import pathlib
from collections.abc import Iterator

import pytest
from tests.engines import vllm

_HERE = pathlib.Path(__file__).parent


def _is_left_out(config: pytest.Config) -> bool:
    asked = [(config.invocation_params.dir / one.partition("::")[0]).resolve() for one in config.args]
    named = any(path.is_relative_to(_HERE) for path in asked)
    return not named and any(_HERE.is_relative_to(path) for path in asked)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    out = [item for item in items if item.get_closest_marker("vllm")] if _is_left_out(config) else []
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _is_left_out(config):
        terminalreporter.write_line("LEFT OUT tests marked vllm: `make engines-test` runs them")


@pytest.fixture(scope="session")
def made_vllm() -> Iterator[None]:
    vllm.make()
    yield
