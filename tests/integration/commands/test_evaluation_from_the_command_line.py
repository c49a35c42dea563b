"""`trimtab eval` on a running platform: the policy that is served, and a reward model that is published."""

import json
import math
import pathlib
import threading

import pytest
from tests.integration.commands.conftest import Recorded, announce, publish_reward
from tools import record_cli

from trimtab.cli.machine import artifacts
from trimtab.core import scoring, text
from trimtab.modeling import rewards

pytestmark = pytest.mark.slow


@pytest.fixture
def prompts(tmp_path: pathlib.Path) -> pathlib.Path:
    """Three that can be asked, and one that is too long for the policy's context."""
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "Why is the sky blue?"}, {"messages": [{"role": "user", "content": "Who asks?"}]}]
    rows += [{"prompt": "And at sunset?"}, {"prompt": "and " * 500}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def scores(recorded: Recorded, reward: str, said: list[tuple[str, str]]) -> list[float]:
    """What the reward model itself says to (prompt, answer)."""
    model = rewards.load_reward_model(artifacts.open_registry(recorded.layout).fetch(reward))
    items = [
        scoring.ScoreItem((text.Message(text.Role.USER, text.Text(asked)),), text.Text(answer))
        for asked, answer in said
    ]
    return [float(score.outcome) for score in model.score(items)]


def test_a_policy_is_measured_on_every_prompt_that_it_can_be_asked(
    recorded: Recorded, reward: str, prompts: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "results.json"
    words = ("eval", "stable", "--prompts", str(prompts), "--reward", reward[:10], "-o", str(file))
    told = recorded.told(*words)
    [measured] = told["prompts"]["policies"]
    assert (measured["prompts"], measured["refused"], measured["unscored"]) == (4, 1, 0)
    assert measured["ended"] + measured["truncated"] == 3
    written = json.loads(file.read_text())
    assert {name: written[name] for name in told} == told
    [rows] = written["answers"].values()
    assert [row["finish"] for row in rows[3:]] == ["refused"]
    assert "context holds 128" in rows[3]["why"]
    asked = ["Why is the sky blue?", "Who asks?", "And at sunset?"]
    own = scores(recorded, reward, [(prompt, row["text"]) for prompt, row in zip(asked, rows, strict=False)])
    assert [row["score"] for row in rows[:3]] == pytest.approx(own, abs=1e-5)
    assert measured["reward"]["mean"] == pytest.approx(sum(own) / 3, abs=1e-5)
    assert recorded.told(*words) == told


def test_what_is_asked_is_kept_nowhere(recorded: Recorded, prompts: pathlib.Path) -> None:
    secret = "Is 7 a secret number?"
    prompts.write_text(json.dumps({"prompt": secret}) + "\n")
    told = recorded.told("eval", "stable", "--prompts", str(prompts))
    assert told["prompts"]["policies"][0]["ended"] + told["prompts"]["policies"][0]["truncated"] == 1
    kept = b"".join(file.read_bytes() for file in recorded.session.state.glob("*.sqlite*"))
    assert record_cli.QUESTION.encode() in kept
    assert secret.encode() not in kept


def test_two_policies_are_compared_prompt_by_prompt(recorded: Recorded, prompts: pathlib.Path) -> None:
    stable = recorded.told("rollout", "status")[-1]["stable_id"]
    told = recorded.told("eval", "stable", "--against", stable, "--prompts", str(prompts))["prompts"]
    assert len(told["policies"]) == 2
    assert told["difference"]["tokens"]["count"] == 3


def test_a_reward_model_is_measured_on_preferences_beside_bags_of_words(
    recorded: Recorded, reward: str, preferences: pathlib.Path
) -> None:
    told = recorded.told("eval", "--preferences", str(preferences), "--reward", reward)["preferences"]
    rows = [json.loads(line) for line in preferences.read_text().splitlines()]
    chosen = scores(recorded, reward, [(row["prompt"], row["chosen"]) for row in rows])
    rejected = scores(recorded, reward, [(row["prompt"], row["rejected"]) for row in rows])
    gaps = [one - other for one, other in zip(chosen, rejected, strict=True)]
    own = told["reward_model"]
    assert own["accuracy"]["mean"] == pytest.approx(sum(gap > 0 for gap in gaps) / len(gaps))
    assert own["nll"]["mean"] == pytest.approx(sum(math.log1p(math.exp(-gap)) for gap in gaps) / len(gaps), abs=1e-5)
    words = told["bag_of_words"]
    # the better answers all have the same words, and bags of words saw most of them
    assert words["predictor"]["accuracy"]["mean"] == 1.0
    assert words["predictor"]["nll"]["mean"] < math.log(2) / 2
    assert words["difference"]["mean"] == pytest.approx(own["nll"]["mean"] - words["predictor"]["nll"]["mean"])
    assert 0 < words["known"] < len(rows)
    code, shown, err = recorded.trimtab("eval", "--preferences", str(preferences), "--reward", reward)
    assert (code, err) == (0, "")
    assert f"{words['known']} of the preferences are among those it was trained on" in shown


def test_a_reward_model_that_was_just_published_is_waited_for(
    recorded: Recorded, preferences: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    manifest = publish_reward(recorded, preferences, tmp_path / "late", seed=2)
    told_later = threading.Timer(2.0, announce, (recorded, manifest))
    told_later.start()
    try:
        told = recorded.told("eval", "--preferences", str(preferences), "--reward", manifest.id)
    finally:
        told_later.join()
    assert told["reward_model"] == manifest.id


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("stable",), "give --prompts FILE"),
        (("--prompts", "PROMPTS"), "name the policy that answers the prompts"),
        (("nope", "--prompts", "PROMPTS"), "There is no model 'nope'"),
        (("main@candidate12345", "--prompts", "PROMPTS"), "is not served"),
        (("stable", "--against", "stable", "--prompts", "PROMPTS"), "names 'stable' again"),
        (("stable", "--prompts", "PROMPTS", "--reward", "POLICY"), "is no reward model that this platform knows"),
        (("stable", "--prompts", "PROMPTS", "-o", "/none/file"), "name a file in a folder that is there"),
    ],
)
def test_what_cannot_be_measured_is_a_sentence(
    recorded: Recorded, prompts: pathlib.Path, words: tuple[str, ...], sentence: str
) -> None:
    given = {"PROMPTS": str(prompts), "POLICY": recorded.session.ids["policy"]}
    code, _, err = recorded.trimtab("eval", *(given.get(word, word) for word in words))
    assert code == 1
    assert sentence in err
