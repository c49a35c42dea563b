"""`trimtab rollout simulate` plays releases by the line's own rule and tells people and programs the same."""

import json
import pathlib

import pytest
from typer.testing import CliRunner, Result

from trimtab.cli.commands import root
from trimtab.core import errors

LINES = """
[lines.support]
tenant = "acme"

[lines.support.release]
maturity_s = 0
maximum_sessions = 400
"""


def simulate(*words: str) -> Result:
    given = ("--sessions", "2000", "--response", "1", "--days", "2", "--runs", "6", *words)
    return CliRunner().invoke(root.app, ["rollout", "simulate", *given], catch_exceptions=False)


@pytest.fixture
def state(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "lines.toml").write_text(LINES)
    return tmp_path


def test_a_line_s_own_rule_decides(state: pathlib.Path) -> None:
    told = json.loads(simulate("--state", str(state), "--difference", "0.4", "--json").stdout)
    assert told["release"]["maximum_sessions"] == 400
    worse, same, better = told["candidates"]
    assert (worse["difference"], same["difference"], better["difference"]) == (-0.4, 0.0, 0.4)
    assert worse["worse"] == better["better"] == 1.0
    # 400 voting sessions decide nothing between equals, and 2,000 come in a day.
    assert same["not_proven"] >= 0.8
    assert same["most_days"] < 0.3


def test_a_limit_without_end_is_json_that_programs_can_read(state: pathlib.Path) -> None:
    (state / "lines.toml").write_text(LINES + "\n[lines.support.release.guardrails]\nlength = inf\n")
    told = json.loads(simulate("--state", str(state), "--json").stdout, parse_constant=pytest.fail)
    assert told["release"]["guardrails"]["length"] == "inf"


def test_the_table_and_the_same_seed_again(tmp_path: pathlib.Path) -> None:
    first, again, other = (simulate("--state", str(tmp_path), "--seed", seed).stdout for seed in ("1", "1", "2"))
    table = [told[told.index("2,000 sessions a day") :] for told in (first, again, other)]
    assert table[0] == table[1] != table[2]
    assert "5 points worse" in first
    assert "rule superior, alpha 0.05, votes count up to 24 h old" in first


def test_aimed_votes_win_unless_few_people_cast_them(state: pathlib.Path) -> None:
    words = ("--state", str(state), "--difference", "0", "--aimed", "0.3", "--json")
    anyone, one = (json.loads(simulate(*words, *more).stdout) for more in ((), ("--aimed-raters", "1")))
    assert anyone["candidates"][0]["better"] == 1.0
    assert one["candidates"][0]["better"] < 0.5
    assert (one["users"]["aimed_raters"], one["release"]["rater_sessions"]) == (1, 5)


def test_a_line_that_is_not_there_is_refused(state: pathlib.Path) -> None:
    with pytest.raises(errors.InvalidField, match="use one of support"):
        simulate("--state", str(state), "--line", "sales")


def test_shares_outside_their_range_are_refused() -> None:
    refused = simulate("--likeness", "1.5")
    assert refused.exit_code == 2
    assert "--likeness" in refused.output
