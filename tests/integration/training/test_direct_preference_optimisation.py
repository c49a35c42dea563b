"""DPO and its relatives learn from pairs against a reference that never moves; what cannot be used is counted."""

import copy
import dataclasses
import math
import pathlib
from typing import Any

import pytest
import torch
import transformers
from tests.integration.training import making

from trimtab.core import errors
from trimtab.modeling import loading, tiny
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.methods import dpo, references
from trimtab.trainer.steps import checkpoints, progress

torch.set_num_threads(1)
QUICK = recipes.DPOSettings(epochs=4, batch=8, lr=3e-3, warmup_steps=2)
EVERY_LOSS = [
    QUICK,
    dataclasses.replace(QUICK, label_smoothing=0.1),
    dataclasses.replace(QUICK, loss="robust", label_smoothing=0.1),
    dataclasses.replace(QUICK, loss="hinge"),
    dataclasses.replace(QUICK, loss="ipo"),
    dataclasses.replace(QUICK, loss="ipo_per_token"),
    dataclasses.replace(QUICK, sft_weight=0.5),
]


def name_of(settings: recipes.DPOSettings) -> str:
    return f"{settings.loss} smoothed {settings.label_smoothing} with likelihood {settings.sft_weight}"


@pytest.fixture
def exact(policy: loading.LoadedPolicy) -> loading.LoadedPolicy:
    """A policy that is fp64 throughout: a Llama's norms work in fp32 whatever its weights are."""
    config = transformers.GPT2Config(
        vocab_size=len(policy.tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=96, eos_token_id=0
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = transformers.GPT2LMHeadModel(config)
    return dataclasses.replace(policy, model=model.double().eval())


@pytest.fixture
def load(folder_of_policy: pathlib.Path) -> references.Loader:
    return lambda: loading.load_policy(folder_of_policy)


def judged(policy: loading.LoadedPolicy, count: int = 18) -> list[dpo.Judged]:
    """Pairs of different weights, with a reference that gives other values than the policy."""
    pairs = dpo.prepare(policy, making.feedback(count, 0).of("train"), encoding.Skipped())
    given = references.all_sums(policy.model, [pair.group for pair in pairs]).view(-1, 2)
    noise = torch.linspace(-2.0, 2.0, given.numel(), dtype=torch.float64).view_as(given)
    return [
        dpo.Judged(dataclasses.replace(pair, weight=1.0 + i % 3), row)
        for i, (pair, row) in enumerate(zip(pairs, given + noise, strict=True))
    ]


def step_of(
    policy: loading.LoadedPolicy, batch: list[dpo.Judged], settings: recipes.DPOSettings
) -> tuple[dict[str, float], list[torch.Tensor]]:
    """The figures and the gradients of one step."""
    policy.model.zero_grad()
    figures = dpo.accumulate(policy, batch, settings)
    return figures, [weight.grad.clone() for weight in policy.model.parameters()]


def by_hand(model: Any, prompt: tuple[int, ...], answer: tuple[int, ...], padding: int) -> torch.Tensor:
    """log p(answer), its end-of-sequence token included, by the model's own forward, padded on the left."""
    tokens = [*prompt, *answer]
    ids = torch.tensor([[0] * padding + tokens])
    mask = torch.tensor([[0] * padding + [1] * len(tokens)])
    places = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=places).logits[0, padding:]
    table = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
    return table.gather(1, torch.tensor(answer)[:, None]).sum()


@pytest.mark.parametrize("padding", [0, 7])
def test_the_loss_and_gradient_of_a_pair_are_those_of_full_sequences_padded_on_either_side(
    exact: loading.LoadedPolicy, padding: int
) -> None:
    one = judged(exact)[0]
    prompt, (chosen, rejected) = one.pair.group.prompt, one.pair.group.answers
    figures, gradients = step_of(exact, [one], QUICK)
    exact.model.zero_grad()
    sums = [by_hand(exact.model, prompt, answer, padding) for answer in (chosen, rejected)]
    margin = (sums[0] - one.reference_K[0]) - (sums[1] - one.reference_K[1])
    loss = torch.log1p(torch.exp(-QUICK.beta * margin))
    loss.backward()
    assert figures["loss"] == pytest.approx(loss.item(), abs=1e-10)
    assert figures["reward_margin"] == pytest.approx(QUICK.beta * margin.item(), abs=1e-10)
    for mine, weight in zip(gradients, exact.model.parameters(), strict=True):
        torch.testing.assert_close(mine, weight.grad, rtol=0, atol=1e-10)


def test_an_answer_without_its_end_or_shifted_by_one_gives_another_sum(exact: loading.LoadedPolicy) -> None:
    """So the test above sees an off-by-one at the end of an answer."""
    group = judged(exact)[0].pair.group
    assert group.answers[0][-1] == exact.tokenizer.eos_token_id
    whole, _ = references.sums(exact.model, [group]).tolist()
    for wrong in (group.answers[0][:-1], group.answers[0][1:]):
        assert abs(by_hand(exact.model, group.prompt, wrong, 0).item() - whole) > 1e-3
    assert by_hand(exact.model, group.prompt, group.answers[0], 0).item() == pytest.approx(whole, abs=1e-10)


def test_before_the_first_step_the_loss_is_ln_2_and_every_log_ratio_0(
    policy: loading.LoadedPolicy, load: references.Loader, report: progress.Progress
) -> None:
    pairs = dpo.prepare(policy, making.feedback(18, 0).of("train"), encoding.Skipped())
    given = references.remembered(load, policy, [pair.group for pair in pairs], report)
    figures, _ = step_of(policy, [dpo.Judged(*one) for one in zip(pairs, given, strict=True)], QUICK)
    assert figures["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert figures["accuracy"] == pytest.approx(0.5, abs=0.5)
    assert figures["log_ratio_chosen_nats"] == pytest.approx(0.0, abs=2e-5)


@pytest.mark.parametrize("settings", EVERY_LOSS, ids=name_of)
def test_what_raters_preferred_becomes_likely_on_held_out_pairs_too(
    settings: recipes.DPOSettings, policy: loading.LoadedPolicy, load: references.Loader, report: progress.Progress
) -> None:
    figures = dpo.train(policy, load, making.feedback(90, 0), settings=settings, seed=1, report=report)
    assert figures["pairs"] == 60 and figures["steps_skipped"] == 0
    assert figures["held_out_accuracy"] > 0.75
    assert figures["held_out_reward_chosen"] > figures["held_out_reward_rejected"]
    assert figures["held_out_reward_margin"] == pytest.approx(
        settings.beta * (figures["held_out_log_ratio_chosen_nats"] - figures["held_out_log_ratio_rejected_nats"])
    )


def test_the_likelihood_term_keeps_the_chosen_answers_likely(
    folder_of_policy: pathlib.Path, load: references.Loader, tmp_path: pathlib.Path
) -> None:
    chosen = []
    for weight in (0.0, 1.0):
        folder = tmp_path / str(weight)
        folder.mkdir()
        figures = dpo.train(
            loading.load_policy(folder_of_policy),
            load,
            making.feedback(60, 0),
            settings=dataclasses.replace(QUICK, sft_weight=weight),
            seed=1,
            report=progress.Progress(folder),
        )
        chosen.append(figures["held_out_log_ratio_chosen_nats"])
    assert chosen[1] > chosen[0] + 1.0


def with_bad_ones(dataset: datasets.Dataset) -> datasets.Dataset:
    good = dataset.of("train")[0]
    bad: list[dict[str, Any]] = [
        {"tie": True},
        {"rejected": good.chosen},
        {"rejected": " "},
        {"chosen": "red " * 200},
        {"weight": math.nan},
        {"weight": math.inf},
        {},
    ]
    rows = [dataclasses.replace(good, id=f"bad{i}", **changes) for i, changes in enumerate(bad)]
    return datasets.Dataset([*dataset.examples, *rows])


def test_what_cannot_be_used_is_counted_by_its_reason_and_reaches_no_weight(
    policy: loading.LoadedPolicy, load: references.Loader, report: progress.Progress
) -> None:
    settings = dataclasses.replace(QUICK, epochs=1)
    figures = dpo.train(policy, load, with_bad_ones(making.feedback(18, 0)), settings=settings, seed=1, report=report)
    assert {name: value for name, value in figures.items() if name.startswith("skipped")} == {
        "skipped: tie": 1,
        "skipped: identical answers": 1,
        "skipped: empty text": 1,
        "skipped: too long": 1,
        "skipped: weight that is no positive number": 2,
        "skipped: duplicate": 1,
    }
    assert figures["pairs"] == 12 and figures["steps_skipped"] == 0
    assert all(torch.isfinite(weight).all() for weight in policy.model.parameters())


def test_the_same_pair_from_another_rater_is_another_vote_and_an_edit_prefers_its_correction(
    policy: loading.LoadedPolicy,
) -> None:
    first = making.feedback(3, 0).examples[0]
    another = dataclasses.replace(first, id="b", rater="someone else")
    edit = dataclasses.replace(first, id="c", kind="edit", rater="an editor")
    kept = dpo.prepare(policy, [first, another, edit], encoding.Skipped())
    assert len(kept) == 3 and kept[0] == kept[1] == kept[2]


def test_nothing_to_learn_from_is_refused(
    policy: loading.LoadedPolicy, load: references.Loader, report: progress.Progress
) -> None:
    for dataset in (datasets.Dataset([]), making.feedback(0, 12)):
        with pytest.raises(errors.InvalidField, match="no pair"):
            dpo.train(policy, load, dataset, settings=QUICK, seed=1, report=report)


def test_a_reference_that_reads_other_tokens_is_refused(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    tokenizer = tiny.train_bpe(["another language altogether"] * 9, 280)
    other = loading.LoadedPolicy(tiny.tiny_llama(len(tokenizer), 0), tokenizer, loading.ServingProfile())
    with pytest.raises(errors.InvalidField, match="reads other tokens"):
        dpo.train(policy, lambda: other, making.feedback(12, 0), settings=QUICK, seed=1, report=report)


class _Killed(Exception):
    pass


class _Dying(progress.Progress):
    """Dies in the middle of a phase; saves after every step."""

    def __init__(self, folder: pathlib.Path, dies_at: int) -> None:
        super().__init__(folder, checkpoints.Checkpoints(folder, b"a record", {}))
        self._dies_at, self._told = dies_at, 0

    def step(self, figures: dict[str, float]) -> None:
        self._told += 1
        if self._told == self._dies_at:
            raise _Killed
        super().step(figures)


def trained(
    folder: pathlib.Path, parent: pathlib.Path, load: references.Loader, dies_at: int = 0
) -> tuple[loading.LoadedPolicy, dict[str, float]]:
    policy = loading.load_policy(parent)
    report = _Dying(folder, dies_at)
    return policy, dpo.train(policy, load, making.feedback(36, 0), settings=QUICK, seed=1, report=report)


def test_a_resumed_run_takes_the_reference_from_its_folder_and_ends_bit_equal(
    folder_of_policy: pathlib.Path,
    load: references.Loader,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Planted: a reference captured anew from the policy in training ends elsewhere, so this test would see it."""
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoints, "SHARE", math.inf)

    def never() -> loading.LoadedPolicy:
        raise AssertionError("the reference was loaded again")

    whole, figures = trained(_made(tmp_path / "whole"), folder_of_policy, load)
    killed = _made(tmp_path / "killed")
    with pytest.raises(_Killed):
        trained(killed, folder_of_policy, load, dies_at=6)
    resumed, again = trained(killed, folder_of_policy, never)
    assert again == figures
    assert all(map(torch.equal, whole.model.parameters(), resumed.model.parameters()))

    planted = _made(tmp_path / "planted")
    with pytest.raises(_Killed):
        trained(planted, folder_of_policy, load, dies_at=6)
    (planted / "checkpoints" / "1.json").unlink()
    in_training = copy.deepcopy(whole)
    captured, _ = trained(planted, folder_of_policy, lambda: in_training)
    assert not all(map(torch.equal, whole.model.parameters(), captured.model.parameters()))


def _made(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    return folder
