"""A line's file says what its owner decided; what is wrong in it is named."""

import pytest

from trimtab.core import errors, lines

FULL = """
[lines.support]
tenant = "acme"
[lines.support.trigger]
examples = 50
[lines.support.gates]
win_rate = 0.6
[lines.support.weights]
reliability_overlap = 30
gold_raters = ["ab12"]
[lines.support.evaluation.refunds]
file = "refunds.jsonl"
at_least = 0.6
[lines.support.release]
rule = "noninferior"
margin = 0.02
maturity_s = 3
rater_sessions = 2
network_sessions = inf
[lines.support.training.ppo]
steps = 20
learning_rate = 1e-4
"""


def _load(tmp_path, content):
    path = tmp_path / "lines.toml"
    path.write_text(content)
    return lines.load_lines(path)


def test_a_line_takes_what_is_said_and_the_defaults_for_the_rest(tmp_path):
    line = _load(tmp_path, FULL)["support"]
    assert (line.name, line.tenant) == ("support", "acme")
    assert line.trigger == lines.TriggerConfig(examples=50)
    assert line.gates == lines.GateConfig(win_rate=0.6)
    assert line.weights == lines.WeightConfig(reliability_overlap=30, gold_raters=("ab12",))
    assert line.evaluation == {"refunds": lines.EvaluationSet(str(tmp_path / "refunds.jsonl"), 0.6)}
    assert line.release == lines.ReleaseConfig(
        rule="noninferior", margin=0.02, maturity_s=3, rater_sessions=2, network_sessions=float("inf")
    )
    assert line.training == {"ppo": {"steps": 20, "learning_rate": 1e-4}}


def test_a_tenant_is_all_a_line_needs(tmp_path):
    assert _load(tmp_path, '[lines.a]\ntenant = "t"\n[lines.b]\ntenant = "t"').keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ("[lines.a]\n", "lines.a.tenant"),
        ('[lines.a]\ntenant = "t"\ntennant = "t"', "lines.a.tennant"),
        ('[lines.a]\ntenant = "t"\n[lines.a.gates]\nwinrate = 1', "lines.a.gates.winrate"),
        ('[lines.a]\ntenant = "t"\n[lines.a.gates]\nwin_rate = "high"', "lines.a.gates.win_rate"),
        ('[lines.a]\ntenant = "t"\n[lines.a.evaluation.own]\nat_least = 1', "lines.a.evaluation.own.file"),
        ('[lines.a]\ntenant = "t"\n[lines.a.evaluation]\nown = "own.jsonl"', "lines.a.evaluation.own.file"),
        ('[lines.a]\ntenant = "t"\n[lines.a.trigger]\nexamples = true', "lines.a.trigger.examples"),
        ('[lines.a]\ntenant = "t"\n[lines.a.trigger]\nexamples = 1.5', "lines.a.trigger.examples"),
        ('[lines.a]\ntenant = "t"\n[lines.a.release]\nrule = 1', "lines.a.release.rule"),
        ('[lines.a]\ntenant = "t"\n[lines.a.weights]\ngold_raters = "ab"', "lines.a.weights.gold_raters"),
        ('[lines.a]\ntenant = "t"\n[lines.a.weights]\npropensity_cap = 0.5', "lines.a.weights.propensity_cap"),
        ('[lines.a]\ntenant = "t"\n[lines.a.weights]\nreliability_overlap = -1', "lines.a.weights.reliability_overlap"),
        ('[lines.a]\ntenant = "t"\n[lines.a.weights]\nrater_share = 0.0', "lines.a.weights.rater_share"),
        ('[lines.a]\ntenant = "t"\n[lines.a.release]\nrater_sessions = 0', "lines.a.release.rater_sessions"),
        ('[lines.a]\ntenant = "t"\n[lines.a.release]\nrater_sessions = 1.5', "lines.a.release.rater_sessions"),
        ('[lines.a]\ntenant = "t"\n[lines.a.release]\nnetwork_sessions = nan', "lines.a.release.network_sessions"),
        ("", "lines.toml"),
        ("[lines", "lines.toml"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(tmp_path, content, field):
    with pytest.raises(errors.InvalidField, match=field.replace(".", r"\.")):
        _load(tmp_path, content)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(errors.InvalidField, match="nowhere"):
        lines.load_lines(tmp_path / "nowhere.toml")
