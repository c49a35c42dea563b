"""A reward model's score is read at the answer's last real token, loads elsewhere, and is never invented."""

import json
import math
import pathlib

import pytest
import torch
import transformers

from trimtab.core import errors, scoring, text
from trimtab.modeling import answers, loading, rewards

torch.set_num_threads(1)


def item(response: str, question: str = "Which colour is the red one?") -> scoring.ScoreItem:
    return scoring.ScoreItem((text.Message(text.Role.USER, text.Text(question)),), text.Text(response))


ITEMS = [item("Gladly: it is red."), item("no"), item("Whatever, red I guess. " * 3), item("blue", "And the blue one?")]


@pytest.fixture
def reward(policy: loading.LoadedPolicy) -> rewards.LoadedReward:
    """A reward model with a head that says something."""
    made = rewards.from_policy(policy)
    torch.nn.init.normal_(made.model.score.weight, generator=torch.Generator().manual_seed(3))
    return made


def outcomes(reward: rewards.LoadedReward, items: list[scoring.ScoreItem]) -> list[float]:
    values = [score.outcome for score in reward.score(items)]
    assert all(isinstance(value, float) for value in values)
    return values  # type: ignore[return-value]


def test_before_training_every_score_is_exactly_zero(policy: loading.LoadedPolicy) -> None:
    assert outcomes(rewards.from_policy(policy), ITEMS) == [0.0] * len(ITEMS)


def test_a_score_does_not_depend_on_the_batch_though_pad_is_the_end_token(reward: rewards.LoadedReward) -> None:
    together = outcomes(reward, ITEMS)
    assert together == pytest.approx([outcomes(reward, [one])[0] for one in ITEMS], abs=1e-5)
    assert len(set(together)) == len(ITEMS)


def test_the_score_is_read_at_the_end_token_not_before_it_and_not_at_a_pad(
    policy: loading.LoadedPolicy, reward: rewards.LoadedReward
) -> None:
    encoder = answers.AnswerEncoder(reward.tokenizer, reward.profile, 96)
    encoded = encoder.encode(ITEMS[0].prompt, "no")
    assert isinstance(encoded, answers.Answer) and encoded.tokens[-1] == policy.tokenizer.eos_token_id
    with torch.no_grad():
        hidden = reward.model.base_model(torch.tensor([encoded.tokens])).last_hidden_state[0]
        by_position = reward.model.score(hidden)[:, 0].tolist()
    assert outcomes(reward, [item("no"), ITEMS[2]])[0] == pytest.approx(by_position[-1], abs=1e-5)
    assert abs(by_position[-1] - by_position[-2]) > 1e-3


def test_a_saved_model_scores_alike_in_plain_transformers(reward: rewards.LoadedReward, tmp_path: pathlib.Path) -> None:
    rewards.save_reward_model(reward, tmp_path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    encoder = answers.AnswerEncoder(reward.tokenizer, reward.profile, 96)
    rows = [encoder.encode(one.prompt, one.response.read()) for one in ITEMS]
    batch = tokenizer.pad({"input_ids": [list(row.tokens) for row in rows]}, return_tensors="pt")  # type: ignore[union-attr]
    with torch.no_grad():
        theirs = model(**{name: batch[name] for name in ("input_ids", "attention_mask")}).logits[:, 0].tolist()
    assert outcomes(reward, ITEMS) == pytest.approx(theirs, abs=1e-5)
    assert outcomes(rewards.load_reward_model(tmp_path), ITEMS) == pytest.approx(theirs, abs=1e-5)


def test_the_surprise_is_saved_with_the_policy_it_is_measured_under(
    policy: loading.LoadedPolicy, reward: rewards.LoadedReward, tmp_path: pathlib.Path
) -> None:
    stars = {"5": rewards.Stars(0.8, [-1.0, 0.0, 1.0, 2.5])}
    surprise = rewards.Surprise(weight=2.0, centre=-5.0, scale=2.0)
    hub = rewards.Hub(0.7, -0.2, {"app": 0.1}, surprise, ties=0.5, ranking_ties=[0.4], stars=stars)
    surprised = rewards.LoadedReward(reward.model, reward.tokenizer, reward.profile, hub, policy.model)
    rewards.save_reward_model(surprised, tmp_path)
    loaded = rewards.load_reward_model(tmp_path)
    assert loaded.hub == hub
    assert outcomes(loaded, ITEMS) == pytest.approx(outcomes(surprised, ITEMS), abs=1e-5)
    assert outcomes(loaded, ITEMS) != pytest.approx(outcomes(reward, ITEMS), abs=1e-2)


def test_what_cannot_be_scored_says_why_and_disturbs_nothing(reward: rewards.LoadedReward) -> None:
    sealed = scoring.ScoreItem(ITEMS[0].prompt, text.Text(text.Ciphertext(b"x", "key")))
    scores = reward.score([ITEMS[0], item("word " * 200), sealed, ITEMS[1]])
    assert [type(score.outcome) for score in scores] == [float, str, str, float]
    assert str(scores[1].outcome).startswith("too long") and "96" in str(scores[1].outcome)
    assert str(scores[2].outcome).startswith("sealed text")
    assert [scores[0].outcome, scores[3].outcome] == pytest.approx(outcomes(reward, ITEMS[:2]), abs=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_unscored_not_zero(reward: rewards.LoadedReward, value: float) -> None:
    torch.nn.init.constant_(reward.model.score.weight, value)
    assert all(str(score.outcome).startswith("no number") for score in reward.score(ITEMS))


def test_nothing_to_score_is_no_error(reward: rewards.LoadedReward) -> None:
    assert reward.score([]) == []


def test_a_classifier_of_two_labels_is_no_reward_model(reward: rewards.LoadedReward, tmp_path: pathlib.Path) -> None:
    config = reward.model.config
    config.num_labels = 2
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    reward.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(errors.ArtifactCorrupt, match="2 labels"):
        rewards.load_reward_model(tmp_path)


def test_a_hub_file_of_thumbs_alone_is_read_as_ever(reward: rewards.LoadedReward, tmp_path: pathlib.Path) -> None:
    rewards.save_reward_model(reward, tmp_path)
    old = {"slope": 0.5, "intercept": 0.1, "surfaces": {"chat": 0.2}, "surprise": None}
    (tmp_path / "hub.json").write_text(json.dumps(old))
    assert rewards.load_reward_model(tmp_path).hub == rewards.Hub(0.5, 0.1, {"chat": 0.2})


def test_a_broken_hub_file_is_refused(reward: rewards.LoadedReward, tmp_path: pathlib.Path) -> None:
    rewards.save_reward_model(reward, tmp_path)
    (tmp_path / rewards.HUB_FILE).write_text(json.dumps({"slope": 1.0, "colour": "red"}))
    with pytest.raises(errors.ArtifactCorrupt, match="colour"):
        rewards.load_reward_model(tmp_path)
