"""What holds for every test: a test that should run and does not fails the run."""

import os
import pathlib
import signal
from collections.abc import Iterator

import pytest
from tests.broker import cluster, shared
from tests.engines import selection as engines
from tests.kubernetes import selection as kubernetes
from tests.postgres import server
from tests.postgres import stores as of_either_kind
from xdist import scheduler

# Those that want the machine's one real node, and those that share the recorded platform.
_REAL_NODE = tuple(f"tests/kubernetes/test_{name}" for name in ("images.py", "platform_on_a_real_node.py", "real_node"))
_TOGETHER = (_REAL_NODE, ("tests/integration/commands/",))

# A run that a shell has put into its background ignores Ctrl-C, and so would everything that tests send it to.
signal.signal(signal.SIGINT, signal.default_int_handler)


class _AtOnce(scheduler.LoadFileScheduling):
    """What is run at once: each file on its own, and those that share something as one."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return next((group[0] for group in _TOGETHER if file.startswith(group)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _AtOnce:
    return _AtOnce(config, log)


def _left_out(config: pytest.Config) -> dict[str, str]:
    """Reasons by marker."""
    asked = config.args, config.invocation_params.dir
    return kubernetes.left_out(*asked) | engines.left_out(*asked)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is left out of a run of everything is no part of it; the run's summary says which, and why.

    What wants the real node begins: it takes longest, and nothing of it can be run at once.
    """
    reasons = _left_out(config)
    out = [item for item in items if any(item.get_closest_marker(marker) for marker in reasons)]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]
    items.sort(key=lambda item: not item.nodeid.startswith(_REAL_NODE))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for marker, reason in _left_out(config).items():
        terminalreporter.write_line(f"LEFT OUT tests marked {marker}: {reason}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A skipped promise is not kept."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.stats.get("skipped") and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def kafka_address() -> Iterator[str]:
    """host:port of a Kafka that tests share, each with a prefix of its own; TRIMTAB_TEST_KAFKA names one that runs.

    A test that stops its broker, or needs another than an ordinary one, starts its own.
    """
    if running := os.environ.get(shared.EXTERNAL, ""):
        yield running
        return
    with cluster.running() as started:
        yield started.address


@pytest.fixture(scope="session")
def postgres() -> Iterator[server.Server]:
    """A real PostgreSQL, started when a test first asks for it; it stays up until the end."""
    with server.running() as started:
        yield started


@pytest.fixture(params=["sqlite", "postgres"])
def stores(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[of_either_kind.Stores]:
    """What needs it runs on SQLite, and on a real PostgreSQL."""
    made: of_either_kind.Stores
    if request.param == "postgres":
        made = of_either_kind.PostgresStores(request.getfixturevalue("postgres"))
    else:
        made = of_either_kind.SqliteStores(tmp_path)
    yield made
    made.close()
