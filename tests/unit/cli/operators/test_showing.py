"""`trimtab rollout show` tells a release as it is recorded, from the log alone."""

import datetime
import json
import pathlib
from typing import Any

from typer.testing import CliRunner

from trimtab.bus import connect, publish, topics
from trimtab.cli.commands import root
from trimtab.cli.machine import platform
from trimtab.core import completions, releases, text

AT = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
STABLE, CANDIDATE = completions.Arm.STABLE, completions.Arm.CANDIDATE


def show(state: pathlib.Path, found: releases.Evidence, *words: str) -> str:
    """What is told of a release with this evidence."""
    log = connect.open_log(platform.Layout(state).log_url)
    publish.publish(log, topics.ROLLOUTS, b"rel-1", release(found)).result()
    log.close()
    given = ["rollout", "show", "rel", "--state", str(state), *words]
    return CliRunner().invoke(root.app, given, catch_exceptions=False, env={"COLUMNS": "160"}).stdout


def release(found: releases.Evidence) -> releases.Release:
    return releases.Release(
        id="rel-1",
        context=text.Context("acme", "support"),
        revision=1,
        candidate_id="c" * 64,
        stable_id="s" * 64,
        anchor_id="s" * 64,
        state=releases.ReleaseState.EVIDENCE,
        salt=b"salt",
        created_at=AT,
        evidence=found,
    )


def evidence(**more: Any) -> releases.Evidence:
    arms = tuple(releases.ArmEvidence(arm, 60, 50, 0.5, 60, 60) for arm in (STABLE, CANDIDATE))
    return releases.Evidence(arms=arms, reason="So it goes on.", **more)


def test_segments_are_a_table_that_says_what_it_is_not(tmp_path: pathlib.Path) -> None:
    assert "segment" not in show(tmp_path, evidence())
    rows = (
        releases.SegmentEvidence("web", releases.SegmentArm(30, 20, 0.5), releases.SegmentArm(31, 21, 0.75)),
        releases.SegmentEvidence("", releases.SegmentArm(9), releases.SegmentArm(8, 4, 0.25)),
        releases.SegmentEvidence("", releases.SegmentArm(7, 1, 1.0), releases.SegmentArm(6, 1, 0.0), others=3),
    )
    found = evidence(segments=rows)
    told = show(tmp_path, found)
    cells = [line.split() for line in told.splitlines()]
    assert ["web", "30", "20", "0.500", "31", "21", "0.750", "+0.250"] in cells
    assert ["(none", "named)", "9", "0", "8", "4", "0.250"] in cells
    assert ["(3", "others)", "7", "1", "1.000", "6", "1", "0.000", "-1.000"] in cells
    assert "reported, not tested" in told
    document = json.loads(show(tmp_path, found, "--json"))
    assert [row["segment"] for row in document["evidence"]["segments"]] == ["web", "", ""]


def test_votes_that_did_not_count_are_told_when_there_are_any(tmp_path: pathlib.Path) -> None:
    assert "did not count" not in show(tmp_path, evidence())
    told = "7 votes over the limits of raters and networks did not count"
    assert told in show(tmp_path, evidence(capped=7))
    assert json.loads(show(tmp_path, evidence(capped=7), "--json"))["evidence"]["capped"] == 7
    assert platform.describe_release(release(evidence(capped=7))).endswith(f"; {told}")
    assert "did not count" not in platform.describe_release(release(evidence()))
    late = "3 votes came later than `maturity_s` after a session's first answer and did not count"
    assert f"{told}; {late}." in show(tmp_path, evidence(capped=7, late=3))
    assert platform.describe_release(release(evidence(late=3))).endswith(f"; {late}")
