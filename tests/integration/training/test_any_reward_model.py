"""Encoders, decoders of either padding side, models without a template: all are reward models, and parents of one."""

import dataclasses
import pathlib
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from tests.integration.training import making
from tests.integration.training.test_reward_scores import ITEMS, item

from trimtab.core import errors, scoring, text
from trimtab.modeling import answers, heads, loading, rewards
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets
from trimtab.trainer.reward import fitting
from trimtab.trainer.steps import progress

torch.set_num_threads(1)
QUICK = recipes.RewardSettings(epochs=4, batch=8, lr=3e-3, warmup_steps=2)


def bert_tokenizer() -> Any:
    """Words of the toy domain, [CLS] prompt [SEP] answer [SEP]."""
    words = sorted({word for colour in making.COLOURS for word in f"{making.KIND} {making.RUDE} {colour}".split()})
    words += ["which", "colour", "is", "the", "one", "and", "?", ".", ",", ":", "no"]
    raw = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(
            {
                token: number
                for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(words)])
            },
            unk_token="[UNK]",
        )
    )
    raw.normalizer = tokenizers.normalizers.Lowercase()
    raw.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    raw.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_max_length=48,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture
def encoder_folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return published_encoder(tmp_path / "encoder")


def published_encoder(folder: pathlib.Path) -> pathlib.Path:
    """No chat template, no profile, nothing of ours."""
    tokenizer = bert_tokenizer()
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(3)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def outcomes(scores: list[scoring.Score]) -> list[float]:
    assert all(isinstance(score.outcome, float) for score in scores)
    return [float(score.outcome) for score in scores]


def test_an_encoder_scores_as_its_own_library_reads_prompt_and_answer(encoder_folder: pathlib.Path) -> None:
    reward = rewards.load_reward_model(encoder_folder)
    pairs = [(one.prompt[0].content.read(), one.response.read()) for one in ITEMS]
    batch = reward.tokenizer([p for p, _ in pairs], [a for _, a in pairs], padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = reward.model(**batch).logits[:, 0].tolist()
    assert len({round(value, 6) for value in theirs}) == len(ITEMS)
    assert outcomes(reward.score(ITEMS)) == pytest.approx(theirs, abs=1e-5)
    assert outcomes(reward.score(ITEMS, batch=1)) == pytest.approx(theirs, abs=1e-5)


def test_what_an_encoder_cannot_read_says_why(encoder_folder: pathlib.Path) -> None:
    reward = rewards.load_reward_model(encoder_folder)
    sealed = scoring.ScoreItem((text.Message(text.Role.USER, text.Text(text.Ciphertext(b"x", "k"))),), text.Text("a"))
    long, hidden = reward.score([item("no " * 60), sealed])
    assert str(long.outcome).startswith("too long") and "48" in str(long.outcome)
    assert str(hidden.outcome).startswith("sealed text")


def test_a_longer_conversation_is_read_turn_by_turn(encoder_folder: pathlib.Path) -> None:
    reward = rewards.load_reward_model(encoder_folder)
    turns = (text.Message(text.Role.USER, text.Text("red")), text.Message(text.Role.ASSISTANT, text.Text("blue")))
    encoded = reward.encoder.encode((*turns, text.Message(text.Role.USER, text.Text("black"))), "white")
    assert isinstance(encoded, answers.Answer)
    assert encoded.tokens == tuple(reward.tokenizer("user: red\nassistant: blue\nuser: black", "white")["input_ids"])
    assert reward.tokenizer.decode(encoded.response) == "white [SEP]"


@pytest.mark.parametrize("count", [1, 3])
def test_an_encoder_is_the_parent_of_a_reward_model(
    encoder_folder: pathlib.Path, report: progress.Progress, tmp_path: pathlib.Path, count: int
) -> None:
    parent = rewards.load_reward_model(encoder_folder)
    settings = dataclasses.replace(QUICK, heads=count)
    (made, _), skipped = fitting.train_both(parent, making.feedback(90, 60), settings, 3, report)
    assert skipped == {} and made.figures["pair_accuracy"] > 0.8 and made.figures["thumb_accuracy"] > 0.8
    rewards.save_reward_model(made.reward, tmp_path / "made")
    assert rewards.is_reward_model(tmp_path / "made")
    assert rewards.load_reward_model(tmp_path / "made").score(ITEMS) == made.reward.score(ITEMS)


def roberta() -> Any:
    """An encoder whose classification head has two layers, both with a bias."""
    config = transformers.RobertaConfig(
        vocab_size=len(bert_tokenizer()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=0,
        num_labels=1,
    )
    torch.manual_seed(3)
    return transformers.RobertaForSequenceClassification(config)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_head_of_an_encoder_alone_is_its_last_layer_and_has_no_constant(
    encoder_folder: pathlib.Path, report: progress.Progress, layers: int
) -> None:
    if layers == 2:
        roberta().save_pretrained(encoder_folder)
    parent = rewards.load_reward_model(encoder_folder)
    with torch.no_grad():
        heads.head_of(parent.model).bias.fill_(7.0)
    before = {name: value.clone() for name, value in parent.model.state_dict().items()}
    settings = dataclasses.replace(QUICK, train_body=False)
    (made, _), _ = fitting.train_both(parent, making.feedback(60, 90), settings, 3, report)
    after = made.reward.model.state_dict()
    head = heads.head_of(made.reward.model)
    learned = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert learned == {("classifier" if layers == 1 else "classifier.out_proj") + part for part in (".weight", ".bias")}
    assert head.bias.item() == 0.0
    # what thumbs say is a probability of the score, so a constant left in it would cost at once
    assert made.figures["thumb_nll"] < 0.65 and made.figures["thumb_accuracy"] > 0.7


def test_a_head_that_is_no_linear_layer_is_not_fitted_alone(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    parent = rewards.from_policy(policy)
    width = parent.model.score.in_features
    parent.model.score = torch.nn.Sequential(torch.nn.Linear(width, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    for changed, field in (({"train_body": False}, "train_body"), ({"heads": 3}, "heads")):
        with pytest.raises(errors.InvalidField, match=rf"{field}.* is a Sequential and no linear layer; leave it"):
            fitting.train_both(parent, making.feedback(60, 0), dataclasses.replace(QUICK, **changed), 3, report)


def test_a_reward_model_trained_on_begins_where_its_parent_ended(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    (parent, _), _ = fitting.train_both(policy, making.feedback(90, 0), QUICK, 3, report)
    begun = rewards.continued(parent.reward)
    assert begun.score(ITEMS) == parent.reward.score(ITEMS) and begun.model is not parent.reward.model
    before = [weight.clone() for weight in parent.reward.model.parameters()]
    again = dataclasses.replace(QUICK, lr=1e-4, epochs=1)
    (made, _), _ = fitting.train_both(parent.reward, making.feedback(90, 0), again, 3, report)
    assert all(torch.equal(a, b) for a, b in zip(before, parent.reward.model.parameters(), strict=True))
    assert outcomes(made.reward.score(ITEMS)) == pytest.approx(outcomes(parent.reward.score(ITEMS)), abs=0.5)
    with pytest.raises(errors.InvalidField, match="surprise"):
        fitting.train_both(parent.reward, making.feedback(), dataclasses.replace(QUICK, surprise=True), 3, report)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_decoder_whose_tokenizer_pads_on_either_side_scores_alike(
    policy: loading.LoadedPolicy, tmp_path: pathlib.Path, side: str
) -> None:
    made = rewards.from_policy(policy)
    torch.nn.init.normal_(made.model.score.weight, generator=torch.Generator().manual_seed(3))
    rewards.save_reward_model(made, tmp_path)
    loaded = rewards.load_reward_model(tmp_path)
    loaded.tokenizer.padding_side = side
    assert outcomes(loaded.score(ITEMS)) == pytest.approx(outcomes(made.score(ITEMS)), abs=1e-6)
    rows = [loaded.encoder.encode(one.prompt, one.response.read()) for one in ITEMS]
    ids = {"input_ids": [list(row.tokens) for row in rows if isinstance(row, answers.Answer)]}
    batch = loaded.tokenizer.pad(ids, return_tensors="pt")
    with torch.no_grad():
        theirs = loaded.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    assert outcomes(loaded.score(ITEMS)) == pytest.approx(theirs.tolist(), abs=1e-5)


def test_a_decoder_without_a_template_reads_prompt_then_answer(policy: loading.LoadedPolicy) -> None:
    made = rewards.from_policy(policy)
    made.tokenizer.chat_template = None
    encoded = made.encoder.encode(ITEMS[0].prompt, "no")
    assert isinstance(encoded, answers.Answer)
    assert made.tokenizer.decode(encoded.prompt) == "Which colour is the red one?"
    assert made.tokenizer.decode(encoded.response) == "no<|end|>"
    assert outcomes(made.score(ITEMS)) == [0.0] * len(ITEMS)


def test_a_classifier_without_a_linear_head_of_one_label_is_refused() -> None:
    with pytest.raises(errors.ArtifactCorrupt, match="no linear layer"):
        heads.head_of(torch.nn.Sequential(torch.nn.Linear(4, 2)))


def test_feedback_that_no_reader_can_use_is_counted_with_an_encoder(
    encoder_folder: pathlib.Path, report: progress.Progress
) -> None:
    parent = rewards.load_reward_model(encoder_folder)
    rows = making.feedback(60, 0).examples
    rows.append(dataclasses.replace(rows[0], id="long", chosen="no " * 80))
    made, skipped = fitting.train_both(parent, datasets.Dataset(rows), QUICK, 3, report)
    assert skipped == {"skipped: too long": 1} and made[0].figures["trained_pairs"] == 40
