"""Every place where a process may be killed is named once, and some test kills there and shows recovery."""

import subprocess
import sys

import pytest
from tests.faults import (
    killing,
    test_feedback_killed,
    test_job_killed,
    test_ledger_killed,
    test_log_killed,
    test_registry_killed,
    test_replay_killed,
    test_rollout_killed,
    test_rollouts_killed,
    test_scores_killed,
    test_trainer_killed,
)
from tests.kubernetes import test_releases_on_fake_pods

from trimtab.core import failpoints

MODULES = (
    test_releases_on_fake_pods,
    test_feedback_killed,
    test_job_killed,
    test_ledger_killed,
    test_log_killed,
    test_registry_killed,
    test_replay_killed,
    test_rollout_killed,
    test_rollouts_killed,
    test_scores_killed,
    test_trainer_killed,
)


def test_every_failpoint_is_walked() -> None:
    walked = {point for module in MODULES for point in module.WALKED}
    assert sorted(killing.points().keys() - walked) == []
    assert len(walked) > 40


@pytest.mark.parametrize(("wanted", "reached"), [("here", 1), ("here:1", 1), ("here:3", 3)])
def test_the_variable_kills_where_the_named_place_is_reached(wanted: str, reached: int) -> None:
    script = (
        "from trimtab.core import failpoints\n"
        "for _ in range(5):\n"
        "    print('passed', flush=True)\n"
        "    failpoints.reach('there')\n"
        "    failpoints.reach('here')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={failpoints.VARIABLE: wanted},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout.count("passed")) == (-9, reached)


def test_a_process_that_is_told_nothing_passes_every_place() -> None:
    for _ in range(100):
        failpoints.reach("registry.publish.before_manifest")
