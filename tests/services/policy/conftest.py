"""Fixtures of the policy service's tests; what they are made of is in `harness`."""

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.services.policy import harness

from trimtab.wire import calls


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> harness.Installation:
    return harness.install(tmp_path_factory.mktemp("policy"), system_prompt="Be brief.", temperature=0.8)


@pytest.fixture(scope="session")
def running(installation: harness.Installation) -> Iterator[harness.Running]:
    with harness.started(installation) as made:
        yield made


@pytest.fixture
async def policy(running: harness.Running) -> AsyncIterator[calls.PolicyCalls]:
    async with running.calls() as made:
        yield made
