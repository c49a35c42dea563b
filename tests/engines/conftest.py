"""A real vLLM for the tests of engines."""

from collections.abc import Iterator

import pytest
from tests.engines import vllm


@pytest.fixture(scope="session")
def made_vllm() -> Iterator[None]:
    vllm.make()
    yield
