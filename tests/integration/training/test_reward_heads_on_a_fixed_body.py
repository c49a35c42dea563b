"""A reward model that keeps its parent's body: read once, its head fitted to the end, cut where it is asked to be."""

import dataclasses
import pathlib

import pytest
import torch
from tests.integration.training import making
from tests.integration.training.test_reward_scores import ITEMS

from trimtab.core import errors
from trimtab.modeling import heads, loading, rewards, tiny
from trimtab.trainer import recipes
from trimtab.trainer.data import encoding
from trimtab.trainer.reward import fitting, hub, material, probing
from trimtab.trainer.steps import checkpoints, progress

torch.set_num_threads(1)
FIXED = recipes.RewardSettings(train_body=False)


def prepared(policy: loading.LoadedPolicy, pairs: int = 60, thumbs: int = 60) -> material.Feedback:
    encoder = encoding.encoder_of(policy)
    return material.prepare(encoder, making.feedback(pairs, thumbs).of("train"), FIXED, encoding.Skipped())


def test_only_the_head_learns_and_the_gates_are_passed(policy: loading.LoadedPolicy, report: progress.Progress) -> None:
    made, _ = fitting.train_both(policy, making.feedback(90, 90), FIXED, 3, report)
    for one in made:
        body, given = one.reward.model.base_model.state_dict(), policy.model.base_model.state_dict()
        assert all(torch.equal(body[name], given[name]) for name in body)
        assert one.figures["pair_nll"] < 0.6 and one.figures["thumb_nll"] < 0.6
        assert all(gate.passed for gate in one.gates if gate.name.endswith("constant"))


@pytest.mark.parametrize("count", [1, 4])
def test_the_head_is_where_no_gradient_is_left(
    policy: loading.LoadedPolicy, report: progress.Progress, count: int
) -> None:
    feedback = prepared(policy)
    settings = dataclasses.replace(FIXED, heads=count)
    made, terms = fitting.fit(policy, feedback, settings, seed=3, report=report)
    ridge = report.figures["ridge"]
    assert ridge in probing.RIDGES
    features_B_D = torch.cat([heads.features_at_last(made.model, [answer]) for answer in feedback.answers()]).double()
    scale_D = features_B_D.std(dim=0, correction=0) * features_B_D.shape[1] ** 0.5
    weights_D = heads.head_of(made.model).weight.detach()[0].double().requires_grad_()
    if count > 1:
        assert made.ensemble is not None and torch.all(made.ensemble.disagreement(features_B_D) > 0)
        return
    scores_B = terms.double().added_to(features_B_D @ weights_D, feedback.answers())
    loss = terms.loss(scores_B, feedback.items) + terms.prior_penalty()
    (loss + ridge / 2 * (weights_D * scale_D).square().sum()).backward()
    assert weights_D.grad is not None
    assert (weights_D.grad / scale_D).norm() < 2e-3
    assert terms.thumbs.intercept.grad is not None and abs(terms.thumbs.intercept.grad.item()) < 2e-2


def test_the_ridge_is_the_one_that_serves_feedback_left_out(
    policy: loading.LoadedPolicy, report: progress.Progress
) -> None:
    """Labels that follow nothing want the largest ridge, labels that follow a rule a smaller one."""
    feedback = prepared(policy, pairs=90, thumbs=0)
    features_B_D = probing.read(rewards.from_policy(policy).model, feedback.answers(), "a test", report)
    drawn = torch.Generator().manual_seed(1)
    taste_D = torch.randn(features_B_D.shape[1], generator=drawn, dtype=torch.float64)

    def chosen(utilities_B: torch.Tensor) -> float:
        flipped = (utilities_B[0::2] < utilities_B[1::2]).repeat_interleave(2)
        rows = torch.arange(len(features_B_D))
        ordered = torch.where(flipped, rows ^ 1, rows)
        begun = probing.Begun(
            rewards.from_policy(policy),
            hub.RewardTerms(feedback, FIXED),
            None,
            lambda: hub.RewardTerms(feedback, FIXED),
        )
        return probing.fit(begun, features_B_D[ordered], feedback)["ridge"]

    ruled = chosen(features_B_D @ taste_D)
    assert chosen(torch.randn(len(features_B_D), generator=drawn)) > ruled


def test_a_reading_that_was_interrupted_goes_on(
    policy: loading.LoadedPolicy, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoints, "SHARE", float("inf"))
    model, encoded = rewards.from_policy(policy).model, prepared(policy).answers()

    def read(read_so_far: list[int]) -> torch.Tensor:
        report = progress.Progress(tmp_path, checkpoints.Checkpoints(tmp_path, b"record", {}))
        step = report.step

        def counted(figures: dict[str, float]) -> None:
            step(figures)
            read_so_far.append(1)
            if read_so_far == [1, 1]:
                raise InterruptedError

        report.step = counted  # type: ignore[method-assign]
        return probing.read(model, encoded, "a test", report)

    steps: list[int] = []
    with pytest.raises(InterruptedError):
        read(steps)
    features_B_D = read(steps)
    assert len(steps) == -(-len(encoded) // probing._ANSWERS_A_STEP)
    torch.testing.assert_close(features_B_D, heads.features_at_last(model, encoded).double(), rtol=1e-4, atol=1e-5)


def test_a_body_is_cut_after_some_of_its_layers(policy: loading.LoadedPolicy, tmp_path: pathlib.Path) -> None:
    model = tiny.tiny_llama(len(policy.tokenizer), seed=1, hidden=16, layers=3, heads=2, intermediate=32, context=96)
    deep = loading.LoadedPolicy(model.eval(), policy.tokenizer, policy.profile)
    cut = rewards.from_policy(deep, layers=2)
    assert len(cut.model.base_model.layers) == 2 == cut.model.config.num_hidden_layers
    torch.nn.init.normal_(cut.model.score.weight, generator=torch.Generator().manual_seed(1))
    rewards.save_reward_model(cut, tmp_path)
    assert rewards.load_reward_model(tmp_path).score(ITEMS) == cut.score(ITEMS)
    with pytest.raises(errors.InvalidField, match="body_layers"):
        rewards.from_policy(deep, layers=4)
