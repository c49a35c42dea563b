"""`trimtab NAME --help`: at once, and without loading what the process computes with."""

import resource
import subprocess
import sys

import pytest
from tests import timing

from trimtab.cli import app

ONLY_OWN_FLAG = {
    "gateway": "--http-listen",
    "policy": "--model-id",
    "reward": "--max-loaded",
    "feedback": "--log-url",
    "ledger": "--database",
    "trainer": "--per-rater",
    "rollout": "--ledger-address",
}


@pytest.mark.parametrize("name", app.PROCESSES)
def test_help_takes_less_than_a_second(name: str) -> None:
    """Of processor time: other tests run beside it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    command = [sys.executable, "-m", "trimtab.cli.app", name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timing.PATIENCE_S, check=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1.0
    assert ONLY_OWN_FLAG[name] in done.stdout


@pytest.mark.parametrize("name", app.PROCESSES)
def test_help_loads_nothing_heavy(name: str) -> None:
    program = (
        f"import sys; sys.argv = ['trimtab', '{name}', '--help']\n"
        "from trimtab.cli import app\n"
        "try:\n    app.main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'transformers', 'grpc', 'sqlalchemy', 'fsspec'} & set(sys.modules)\n"
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=timing.PATIENCE_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
