"""KTO learns from single votes against a reference that never moves and a reference point that runs along."""

import dataclasses
import math
import pathlib
from typing import Any

import pytest
import torch
from tests.integration.training import making

from trimtab.core import errors
from trimtab.modeling import loading
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.methods import kto, references
from trimtab.trainer.steps import checkpoints, progress

torch.set_num_threads(1)
QUICK = recipes.KTOSettings(epochs=4, batch=8, lr=3e-3, warmup_steps=2, kl_memory=16)
VALUE = kto.Value(kl_nats=0.3, beta=0.1, desirable_weight=1.0, undesirable_weight=1.5)


@pytest.fixture
def load(folder_of_policy: pathlib.Path) -> references.Loader:
    return lambda: loading.load_policy(folder_of_policy)


def prepared(policy: loading.LoadedPolicy, thumbs: int = 18) -> list[kto.Vote]:
    return kto.prepare(policy, making.feedback(0, thumbs).of("train"), encoding.Skipped())


def judged(policy: loading.LoadedPolicy) -> list[kto.Judged]:
    """Votes of different weights, with a reference that gives other values than the policy."""
    votes = prepared(policy)
    groups = [references.Group(one.answer.prompt, (one.answer.response,)) for one in votes]
    given = references.all_sums(policy.model, groups) + torch.linspace(-2.0, 2.0, len(votes))
    partners = kto.mismatched(policy, votes, 1)
    return [
        kto.Judged(dataclasses.replace(vote, weight=1.0 + i % 3), given[i].item(), partners[i], -20.0 - i)
        for i, vote in enumerate(votes)
    ]


def step_of(
    policy: loading.LoadedPolicy, batch: list[kto.Judged], positions: int
) -> tuple[dict[str, float], list[torch.Tensor]]:
    policy.model.zero_grad()
    figures = kto.accumulate(policy, batch, VALUE, positions)
    return figures, [weight.grad.clone() for weight in policy.model.parameters()]


def test_the_loss_of_a_step_is_that_of_its_answers_by_hand_and_no_gradient_goes_through_the_reference_point(
    policy: loading.LoadedPolicy,
) -> None:
    policy.model.double()
    batch = judged(policy)[:5]
    figures, gradients = step_of(policy, batch, 60)
    policy.model.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for one in batch:
        prompt, answer = one.vote.answer.prompt, one.vote.answer.response
        logits = policy.model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        logprob = torch.log_softmax(logits, -1).gather(1, torch.tensor(answer)[:, None]).sum()
        gain = VALUE.beta * (logprob - one.reference - VALUE.kl_nats)
        loss = torch.sigmoid(-gain) if one.vote.desirable else 1.5 * torch.sigmoid(gain)
        total = total + one.vote.weight * loss
    total = total / sum(one.vote.weight for one in batch)
    total.backward()
    assert figures["loss"] == pytest.approx(total.item(), abs=1e-10)
    for mine, weight in zip(gradients, policy.model.parameters(), strict=True):
        torch.testing.assert_close(mine, weight.grad, rtol=0, atol=1e-10)


def test_before_the_first_step_every_answer_costs_one_half_and_the_reference_point_is_0(
    policy: loading.LoadedPolicy, load: references.Loader, report: progress.Progress
) -> None:
    votes = prepared(policy)
    batch = kto.judged(load, policy, votes, kto.mismatched(policy, votes, 1), report)
    point = kto.reference_point(policy, batch, 0.0, QUICK)
    assert point == pytest.approx(0.0, abs=2e-5)
    figures = kto.accumulate(policy, batch, kto.Value(0.0, 0.1, 1.0, 1.0), 512)
    assert figures["loss"] == pytest.approx(0.5, abs=1e-6)


def test_a_partner_answers_another_prompt_and_fits_into_the_context(policy: loading.LoadedPolicy) -> None:
    votes = prepared(policy, 60)
    own = {answer.answer.response: set() for answer in votes}
    for vote in votes:
        own[vote.answer.response].add(vote.answer.prompt)
    partners = kto.mismatched(policy, votes, 1)
    assert kto.mismatched(policy, votes, 1) == partners != kto.mismatched(policy, votes, 2)
    assert len(set(partners)) > 8
    for vote, partner in zip(votes, partners, strict=True):
        assert own[partner] - {vote.answer.prompt}
        assert len(vote.answer.prompt) + len(partner) <= 96
    assert kto.mismatched(policy, [votes[0], votes[0]], 1) == [(), ()]


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_the_reference_point_follows_the_policy_at_any_size_of_the_step(
    batch: int, policy: loading.LoadedPolicy, load: references.Loader, report: progress.Progress
) -> None:
    """A policy that moved towards all answers has a mean log-ratio, and the running estimate comes to it."""
    votes = prepared(policy, 60)
    ready = kto.judged(load, policy, votes, kto.mismatched(policy, votes, 1), report)
    moved = [dataclasses.replace(one, partner_reference=one.partner_reference - 1.7) for one in ready]
    point = 0.0
    for start in range(0, 200, batch):
        part = [moved[i % len(moved)] for i in range(start, start + batch)]
        point = kto.reference_point(policy, part, point, QUICK)
    assert point == pytest.approx(1.7, abs=1e-4)


def test_a_step_of_one_class_or_of_one_answer_is_a_step(policy: loading.LoadedPolicy) -> None:
    batch = judged(policy)
    for part in ([one for one in batch if one.vote.desirable], batch[:1]):
        figures, gradients = step_of(policy, part, 512)
        assert math.isfinite(figures["loss"]) and all(torch.isfinite(gradient).all() for gradient in gradients)
        assert "reward_undesirable" not in figures or not part[0].vote.desirable


@pytest.mark.parametrize("batch", [1, 8])
def test_what_people_liked_becomes_likely_on_held_out_answers_too(
    batch: int, policy: loading.LoadedPolicy, load: references.Loader, report: progress.Progress
) -> None:
    settings = dataclasses.replace(QUICK, batch=batch, epochs=min(batch, 4), lr=3e-3)
    figures = kto.train(policy, load, making.feedback(0, 90), settings=settings, seed=1, report=report)
    assert figures["answers"] == 60 and figures["steps_skipped"] == 0
    assert figures["held_out_accuracy"] > 0.7
    assert figures["held_out_reward_desirable"] > figures["held_out_reward_undesirable"]
    assert figures["reference_point_nats"] >= 0.0


def test_pairs_and_edits_are_taken_apart_unless_they_are_left_out(
    policy: loading.LoadedPolicy, load: references.Loader, tmp_path: pathlib.Path
) -> None:
    everything = datasets.Dataset(making.every_kind(24).of("train"))
    kinds = {one.kind for one in everything.of("train")}
    assert {"thumb", "pair", "edit"} <= kinds
    counted = {}
    for pairs in (True, False):
        (tmp_path / str(pairs)).mkdir()
        settings = dataclasses.replace(QUICK, epochs=1, pairs=pairs)
        report = progress.Progress(tmp_path / str(pairs))
        counted[pairs] = kto.train(policy, load, everything, settings=settings, seed=1, report=report)
    thumbs = len(everything.of("train", "thumb"))
    compared = everything.of("train", "pair", "edit")
    apart = sum(2 for one in compared if not one.tie)
    assert counted[False]["answers"] == thumbs
    # who gave a thumb up to an answer and preferred it, too, said the same twice
    assert counted[True]["answers"] + counted[True]["skipped: duplicate"] == thumbs + apart
    assert counted[True]["answers"] > thumbs
    assert counted[True]["skipped: tie"] == sum(one.tie for one in compared)


def test_the_rarer_class_weighs_more_until_both_weigh_the_same(policy: loading.LoadedPolicy) -> None:
    one = prepared(policy)[0]
    votes = [dataclasses.replace(one, desirable=i < 3, weight=1.0) for i in range(12)]
    value = kto.first_value(votes, dataclasses.replace(QUICK, undesirable_weight=1.2))
    assert (value.desirable_weight, value.undesirable_weight) == (3.0, 1.2)
    plain = kto.first_value(votes, dataclasses.replace(QUICK, balance=False))
    assert (plain.desirable_weight, plain.undesirable_weight) == (1.0, 1.0)


def test_what_cannot_be_used_is_counted_by_its_reason_and_reaches_no_weight(
    policy: loading.LoadedPolicy, load: references.Loader, report: progress.Progress
) -> None:
    dataset = making.feedback(0, 18)
    good = dataset.of("train")[0]
    bad: list[dict[str, Any]] = [{"response": ""}, {"response": "red " * 200}, {"weight": math.nan}, {}]
    rows = [dataclasses.replace(good, id=f"bad{i}", **changes) for i, changes in enumerate(bad)]
    figures = kto.train(
        policy, load, datasets.Dataset([*dataset.examples, *rows]), settings=QUICK, seed=1, report=report
    )
    assert {name: value for name, value in figures.items() if name.startswith("skipped")} == {
        "skipped: empty text": 1,
        "skipped: too long": 1,
        "skipped: weight that is no positive number": 1,
        "skipped: duplicate": 1,
    }
    assert figures["answers"] == 12 and figures["steps_skipped"] == 0
    assert all(torch.isfinite(weight).all() for weight in policy.model.parameters())


@pytest.mark.parametrize(("up", "missing"), [(True, "undesirable"), (False, "desirable")])
def test_votes_of_one_class_alone_are_refused(
    up: bool, missing: str, policy: loading.LoadedPolicy, load: references.Loader, report: progress.Progress
) -> None:
    rows = [dataclasses.replace(one, up=up) for one in making.feedback(0, 18).examples]
    with pytest.raises(errors.InvalidField, match=f"holds no {missing} answer"):
        kto.train(policy, load, datasets.Dataset(rows), settings=QUICK, seed=1, report=report)


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


def test_a_resumed_run_keeps_the_reference_point_and_the_order_and_ends_bit_equal(
    folder_of_policy: pathlib.Path, load: references.Loader, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a reference point that starts anew, or answers that are dropped, end elsewhere."""
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoints, "SHARE", math.inf)

    def run(name: str, dies_at: int = 0) -> tuple[list[torch.Tensor], dict[str, float]]:
        (tmp_path / name).mkdir(exist_ok=True)
        policy = loading.load_policy(folder_of_policy)
        report = _Dying(tmp_path / name, dies_at)
        figures = kto.train(policy, load, making.feedback(0, 36), settings=QUICK, seed=1, report=report)
        return list(policy.model.parameters()), figures

    def resumed(name: str) -> tuple[list[torch.Tensor], dict[str, float]]:
        with pytest.raises(_Killed):
            run(name, dies_at=7)
        return run(name)

    whole, figures = run("whole")
    same, again = resumed("killed")
    assert figures["reference_point_nats"] > 0 and again == figures and all(map(torch.equal, whole, same))

    with monkeypatch.context() as planted:
        forgets = checkpoints.Carried
        planted.setattr(checkpoints, "Carried", lambda modules, optimizers, *_: forgets(modules, optimizers, {}))
        other, _ = resumed("forgets the reference point")
    assert not all(map(torch.equal, whole, other))
