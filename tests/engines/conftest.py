"""A run of everything leaves out what needs a real vLLM until one is made; who names these tests gets them."""

import pathlib
from collections.abc import Iterator

import pytest
from tests.engines import vllm

_HERE = pathlib.Path(__file__).parent


def _is_left_out(config: pytest.Config) -> bool:
    asked = [(config.invocation_params.dir / one.partition("::")[0]).resolve() for one in config.args]
    return not vllm.is_made() and not any(path.is_relative_to(_HERE) for path in asked)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    out = [item for item in items if item.get_closest_marker("vllm")] if _is_left_out(config) else []
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _is_left_out(config):
        terminalreporter.write_line(
            "LEFT OUT tests marked vllm: there is none (`python -m tests.engines.vllm` makes it)"
        )


@pytest.fixture(scope="session")
def made_vllm() -> Iterator[None]:
    vllm.make()
    yield
