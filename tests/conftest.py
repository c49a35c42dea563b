"""What holds for every test: a test that should run and does not fails the run."""

import signal

import pytest

# A run that a shell has put into its background ignores Ctrl-C, and so would everything that tests send it to.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A skipped promise is not kept."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.stats.get("skipped") and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
