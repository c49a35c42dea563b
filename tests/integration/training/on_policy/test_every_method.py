"""What holds of PPO, A2C, RLOO and GRPO alike: they learn, start where they should, and train on nothing invented."""

import collections
import dataclasses
import math
from typing import Any

import pytest
import torch
from tests.integration.training import making
from tests.integration.training.on_policy.bench import METHODS, Bench, not_taken

from trimtab.core import errors
from trimtab.modeling import logprobs
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets
from trimtab.trainer.methods import learner, rollouts
from trimtab.trainer.steps import kl

torch.set_num_threads(1)
GROUPED = ("rloo", "grpo", "dr. grpo")
# What `train diagnose` reads.
FIGURES = {
    "score", "score_deviation", "response_tokens", "missing_eos_share", "entropy_nats_per_token",
    "kl_nats", "kl_k3_nats", "beta",
    "approximate_kl", "clip_fraction", "policy_loss", "policy_gradient_norm", "zero_advantage_share",
    "effective_sample_share", "staleness", "unscored", "dropped", "answers",
}  # fmt: skip
OF_CRITICS = {"value_loss", "explained_variance"}
OF_GROUPS = {"groups", "groups_too_small", "equal_score_group_share"}
every_method = pytest.mark.parametrize("name", METHODS)


@every_method
def test_answers_become_what_the_reward_model_likes_and_every_figure_is_told(name: str, bench: Bench) -> None:
    bench.train(METHODS[name])
    steps = bench.steps()
    assert steps[-1]["score"] > steps[0]["score"] + 0.3
    wanted = FIGURES | (OF_GROUPS if name in GROUPED else OF_CRITICS)
    assert all(wanted <= step.keys() and all(map(math.isfinite, step.values())) for step in steps)
    assert ("critic_gradient_norm" in steps[0]) is (name in ("ppo", "a2c"))


@every_method
def test_at_the_start_policy_and_reference_agree_and_nothing_is_clipped(name: str, bench: Bench) -> None:
    method = bench.learner(METHODS[name])
    batch = bench.rollouts().kept
    steps, figures = method.judge(batch)
    assert figures["kl_nats"] == pytest.approx(0.0, abs=1e-4) and figures["effective_sample_share"] == 1.0
    learned = method.learn(steps[:1], seed=0)
    assert learned["approximate_kl"] == pytest.approx(0.0, abs=1e-6)
    assert learned["clip_fraction"] == 0.0


@pytest.mark.parametrize("name", GROUPED)
def test_the_advantages_of_a_group_sum_to_zero_and_every_token_has_its_answer_s(name: str, bench: Bench) -> None:
    batch = bench.rollouts().kept
    steps, _ = bench.learner(METHODS[name]).judge(batch)
    sums: collections.Counter[int] = collections.Counter()
    for rollout, step in zip(batch, steps, strict=True):
        assert torch.equal(step.advantages, step.advantages[:1].expand(len(rollout.response)))
        sums[rollout.group] += step.advantages[0].item()  # type: ignore[assignment]
    assert len(sums) == len(making.COLOURS)
    assert all(total == pytest.approx(0.0, abs=1e-5) for total in sums.values())


@every_method
def test_the_kl_is_in_the_reward_and_in_no_loss(name: str, bench: Bench) -> None:
    """Without advantages there is nothing for the policy to learn, however far the reference is."""
    settings = METHODS[name]
    if isinstance(settings, recipes.CriticSettings):
        settings = dataclasses.replace(settings, value_coefficient=0.0)  # type: ignore[type-var]
    assert moved_without_advantages(bench, bench.learner(settings)) == 0.0


def moved_without_advantages(bench: Bench, method: learner.Learner) -> float:
    steps, _ = method.judge(bench.rollouts().kept)
    indifferent = [dataclasses.replace(step, advantages=torch.zeros_like(step.advantages)) for step in steps]
    with torch.no_grad():
        for weight in bench.reference.model.parameters():
            weight.mul_(1.5)
    before = bench.weights()
    method.learn(indifferent, seed=0)
    return max((a - b).abs().max().item() for a, b in zip(before, bench.policy.model.parameters(), strict=True))


def gradients_of(method: learner.Learner, steps: list[learner.Step]) -> list[torch.Tensor]:
    """Those of all modules in one step on all answers."""
    not_taken(method, steps)
    weights = [weight for module in method.carried.modules.values() for weight in module.parameters()]
    return [torch.zeros(1) if weight.grad is None else weight.grad.clone() for weight in weights]


def test_what_is_held_out_is_never_asked(bench: Bench) -> None:
    dataset = making.feedback()
    secret = [dataclasses.replace(one, prompt=making.prompt("secret")) for one in dataset.of("held_out")]
    asked = bench.train(
        dataclasses.replace(METHODS["rloo"], iterations=1), datasets.Dataset([*dataset.of("train"), *secret])
    )
    assert asked["prompts"] == len(making.COLOURS) and asked["prompts_also_held_out"] == 0
    with pytest.raises(errors.InvalidField, match="no prompt"):
        bench.train(dataset=datasets.Dataset(secret))


def test_a_session_s_prompts_are_capped(bench: Bench) -> None:
    rows = [dataclasses.replace(one, session="talker") for one in making.feedback().examples]
    figures = bench.train(dataclasses.replace(METHODS["rloo"], iterations=1, per_session=2), datasets.Dataset(rows))
    assert figures["prompts"] == 2 and figures["prompts_over_session_limit"] == len(making.COLOURS) - 2


def test_answers_without_a_score_are_dropped_and_counted_not_zero(bench: Bench) -> None:
    scored = bench.rollouts()
    # the reward model's context ends before the longer half of the answers does
    lengths = sorted(len(one.prompt.tokens) + len(one.response) for one in scored.kept)
    bench.reward.model.config.max_position_embeddings = lengths[len(lengths) // 2]
    fewer = bench.rollouts()
    assert fewer.unscored > 0 and fewer.dropped == {"unscored, too long": fewer.unscored}
    assert len(fewer.kept) + fewer.unscored == len(scored.kept)
    by_answer = {(one.prompt.tokens, one.response): one.score for one in scored.kept}
    assert all(by_answer[one.prompt.tokens, one.response] == pytest.approx(one.score, abs=1e-5) for one in fewer.kept)


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_an_unscored_answer_is_in_no_baseline_and_a_group_of_one_teaches_nothing(name: str, bench: Bench) -> None:
    batch = bench.rollouts().kept
    # of the first group one answer is left, of the second all but one
    left = [one for one in batch if one.group > 1] + list(batch[:1]) + [one for one in batch if one.group == 1][1:]
    method = bench.learner(METHODS[name])
    steps, figures = method.judge(left)
    assert figures["groups_too_small"] == 1 and figures["groups"] == len(making.COLOURS) - 1
    assert method.values["dropped"] == {"alone in its group": 1}
    assert len(steps) == figures["answers"] == len(left) - 1
    alone, _ = bench.learner(METHODS[name]).judge([one for one in left if one.group == 1])
    for one, same in zip(steps[-3:], alone, strict=True):
        torch.testing.assert_close(one.advantages, same.advantages, rtol=0, atol=1e-6)


def test_groups_of_one_only_change_nothing_and_are_counted(bench: Bench) -> None:
    method = bench.learner(METHODS["rloo"])
    steps, figures = method.judge(bench.rollouts().kept[::4])
    assert steps == [] and figures["groups"] == 0 and figures["groups_too_small"] == len(making.COLOURS)


@every_method
def test_a_reward_model_that_gives_no_number_ends_the_run_with_unchanged_weights(name: str, bench: Bench) -> None:
    torch.nn.init.constant_(bench.reward.model.score.weight, math.nan)
    with pytest.raises(errors.WrongState, match="none was scored"):
        bench.train(METHODS[name])
    for one, other in zip(bench.policy.model.parameters(), bench.reference.model.parameters(), strict=True):
        assert torch.equal(one, other)


@every_method
def test_equal_rewards_teach_nothing_and_are_counted(name: str, bench: Bench) -> None:
    torch.nn.init.zeros_(bench.reward.model.score.weight)
    before = bench.weights()
    figures = bench.train(dataclasses.replace(METHODS[name], iterations=2, beta=0.0, missing_eos=0.0))
    assert figures["zero_advantage_share"] == 1.0
    assert name not in GROUPED or figures["equal_score_group_share"] == 1.0
    assert all(torch.equal(a, b) for a, b in zip(before, bench.policy.model.parameters(), strict=True))


@pytest.mark.parametrize("name", ["grpo", "dr. grpo"])
def test_a_group_of_equal_scores_compares_its_kl_in_units_of_reward(name: str, bench: Bench) -> None:
    """In units of its own deviation it would pull as hard as any score."""
    batch = [dataclasses.replace(one, score=2.0, ended=True) for one in bench.rollouts().kept]
    with torch.no_grad():
        for weight in bench.reference.model.parameters():
            weight.mul_(1.5)
    method = bench.learner(dataclasses.replace(METHODS[name], beta=0.03))
    steps, figures = method.judge(batch)
    assert figures["equal_score_group_share"] == 1.0
    rows = logprobs.response_logprobs(
        bench.reference.model, [one.prompt.tokens for one in batch[:4]], [one.response for one in batch[:4]]
    )
    paid = [0.03 * kl.k1(torch.tensor(one.logprobs), row).sum() for one, row in zip(batch, rows, strict=False)]
    expected = [torch.stack(paid).mean() - one for one in paid]
    assert max(expected) > 0
    found = torch.stack([step.advantages[0] for step in steps[:4]])
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-4)


@every_method
def test_a_reference_that_gives_no_number_ends_the_run_with_unchanged_weights(name: str, bench: Bench) -> None:
    before = bench.weights()
    with torch.no_grad():
        bench.reference.model.get_input_embeddings().weight.fill_(math.nan)
    with pytest.raises(errors.WrongState, match="No log-probability"):
        bench.train(METHODS[name])
    assert all(torch.equal(a, b) for a, b in zip(before, bench.policy.model.parameters(), strict=True))


@every_method
def test_an_answer_whose_probability_is_no_number_is_left_out_and_counted(name: str, bench: Bench) -> None:
    drawn = bench.rollouts().kept
    method = bench.learner(METHODS[name])
    spoiled = [dataclasses.replace(drawn[0], logprobs=(math.inf,) * len(drawn[0].response)), *drawn[1:]]
    steps, _ = method.judge(spoiled)
    assert len(steps) == len(drawn) - 1
    assert method.values["dropped"] == {"log-probability that is no number": 1}
    method.learn(steps, seed=0)
    assert all(torch.isfinite(weight).all() for weight in bench.policy.model.parameters())


def refused(**changes: Any) -> rollouts.Drawn:
    good: dict[str, Any] = {"text": "Gladly.", "token_ids": (5, 6), "logprobs": (-1.0, -2.0), "ended": True}
    return rollouts.Drawn(**(good | changes))


@pytest.mark.parametrize(
    ("drawn", "reason"),
    [
        (refused(token_ids=(), logprobs=()), "empty response"),
        (refused(logprobs=(-1.0,)), "response without the log-probability of each token"),
        (refused(logprobs=(-1.0, math.nan)), "log-probability that is no number"),
        (refused(refused="no answer from the policy process"), "no answer from the policy process"),
    ],
)
def test_an_answer_that_cannot_be_used_is_dropped_with_its_reason(
    drawn: rollouts.Drawn, reason: str, bench: Bench
) -> None:
    found = rollouts.scored([drawn, refused()], bench.prompts()[:1], 2, bench.reward)
    assert found.dropped == {reason: 1} and len(found.kept) == 1 and found.unscored == 0


def test_a_joint_critic_needs_no_second_body_and_its_loss_reaches_the_policy_by_its_coefficient(bench: Bench) -> None:
    moved = []
    for coefficient in (0.0, 0.5):
        settings = dataclasses.replace(METHODS["a2c, joint critic"], value_coefficient=coefficient, whiten=False)
        method = bench.learner(settings)
        steps, _ = method.judge(bench.rollouts().kept)
        indifferent = [dataclasses.replace(step, advantages=torch.zeros_like(step.advantages)) for step in steps]
        assert sum(weight.numel() for weight in method.carried.modules["critic"].parameters()) == 33
        with torch.no_grad():  # a head of zeros has no gradient for the body
            method.carried.modules["critic"].weight.fill_(0.1)
        found = gradients_of(method, indifferent)
        bench.policy.model.zero_grad()
        moved.append(max(gradient.abs().max().item() for gradient in found[:-2]))
    assert moved[0] == 0.0 and moved[1] > 1e-3
