"""PPO raises the reward, stays near its reference, and trains on nothing that was invented or held out."""

import dataclasses
import pathlib

import pytest
import torch
from tests.integration.training import making
from tests.integration.training.on_policy.bench import PPO as QUICK
from tests.integration.training.on_policy.bench import Bench

from trimtab.core import text
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.methods import critics, rollouts, sft

torch.set_num_threads(1)


def test_the_figures_of_the_run_are_those_of_its_last_step_and_its_books(bench: Bench) -> None:
    figures = bench.train()
    steps = bench.steps()
    assert len(steps) == QUICK.iterations
    assert figures["score"] == steps[-1]["score"]
    assert figures["unscored"] == 0 and figures["prompts"] == len(making.COLOURS)


def test_a_strong_kl_holds_the_policy_at_its_reference(bench: Bench, trained: dict[str, pathlib.Path]) -> None:
    free = bench.train(dataclasses.replace(QUICK, iterations=10, beta=0.0))
    held = Bench(trained, bench.folder).train(dataclasses.replace(QUICK, iterations=10, beta=20.0))
    assert held["kl_nats"] < 0.3 * free["kl_nats"]


def test_the_coefficient_adapts_to_its_target(bench: Bench) -> None:
    bench.train(dataclasses.replace(QUICK, iterations=3, kl_target=0.01, kl_horizon=36.0))
    betas = [step["beta"] for step in bench.steps()]
    assert betas[0] == QUICK.beta and betas[1] == pytest.approx(QUICK.beta * 0.8, rel=1e-6)


def test_the_score_is_the_reward_of_the_last_token_and_advantages_are_whitened(bench: Bench) -> None:
    batch = bench.rollouts().kept
    settings = dataclasses.replace(QUICK, beta=0.0, lam=1.0)
    steps, _ = bench.learner(settings).judge(batch)
    for rollout, step in zip(batch, steps, strict=True):
        # without KL and with lambda 1 the return of every token is the score
        expected = rollout.score + (0.0 if rollout.ended else settings.missing_eos)
        torch.testing.assert_close(step.returns, torch.full_like(step.returns, expected), rtol=0, atol=1e-4)
        assert len(step.returns) == len(rollout.response)
        assert rollout.ended is (rollout.response[-1] == bench.policy.tokenizer.eos_token_id)
    everything = torch.cat([step.advantages for step in steps])
    assert everything.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert everything.square().mean().item() == pytest.approx(1.0, abs=1e-3)


def edits(split: datasets.Split = "train") -> list[datasets.DatasetExample]:
    """Users who found every colour wrong."""
    return [
        datasets.DatasetExample(
            f"e{i}",
            split,
            "edit",
            making.prompt(colour),
            chosen=making.KIND.format(making.COLOURS[i - 1]),
            rejected=making.KIND.format(colour),
        )
        for i, colour in enumerate(making.COLOURS)
    ]


def shown_to(bench: Bench) -> tuple[sft.Demonstration, ...]:
    return tuple(sft.prepare(bench.policy, edits(), encoding.Skipped()))


def test_demonstrations_add_their_weighted_mean_gradient_to_the_step(bench: Bench) -> None:
    """gamma / N sum of d(-log p)/d weights, each answer by itself through the model's own forward, in float64."""
    bench.policy.model.double()
    settings = dataclasses.replace(QUICK, demonstration_weight=0.7, demonstrations=len(making.COLOURS))
    loss = bench.learner(settings, shown_to(bench)).demonstrate(seed=3)
    gradients = [weight.grad.clone() for weight in bench.policy.model.parameters()]
    bench.policy.model.zero_grad()
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for one in shown_to(bench):
        prompt, response = one.answer.prompt, one.answer.response
        logits_S_V = bench.policy.model(torch.tensor([[*prompt, *response]])).logits[0]
        predicting_N_V = torch.log_softmax(logits_S_V, dim=-1)[len(prompt) - 1 : -1]
        total = total - predicting_N_V[torch.arange(len(response)), torch.tensor(response)].sum()
        tokens += len(response)
    (0.7 * total / tokens).backward()
    assert loss == pytest.approx(total.item() / tokens, abs=1e-9)
    for ours, weight in zip(gradients, bench.policy.model.parameters(), strict=True):
        torch.testing.assert_close(ours, weight.grad, rtol=0, atol=1e-9)


def test_an_answer_weighs_the_same_however_few_there_are(bench: Bench) -> None:
    """One edit of a line is one of the `demonstrations` of a step, not all of them."""
    bench.policy.model.double()
    count = len(making.COLOURS)
    settings = dataclasses.replace(QUICK, demonstration_weight=0.7, demonstrations=count)
    shown = shown_to(bench)
    alone = bench.learner(settings, shown[:1]).demonstrate(seed=3)
    gradients = [weight.grad.clone() for weight in bench.policy.model.parameters()]
    bench.policy.model.zero_grad()
    assert alone == pytest.approx(sft.accumulate(bench.policy, shown[:1], settings, 0.7 / count), abs=1e-12)
    for ours, weight in zip(gradients, bench.policy.model.parameters(), strict=True):
        torch.testing.assert_close(ours, weight.grad, rtol=0, atol=1e-12)


def test_demonstrations_move_the_policy_and_not_the_critic(bench: Bench) -> None:
    """Without advantages and without values to learn, what is shown is all there is."""
    once = dataclasses.replace(QUICK, minibatches=1, demonstrations=len(making.COLOURS))
    drawn = bench.rollouts().kept
    # in float64: what a value differs by between two batches must be nothing to the optimizer
    learner = bench.double().learner(once, shown_to(bench))
    steps, _ = learner.judge(drawn)
    still = [
        dataclasses.replace(step, advantages=torch.zeros_like(step.advantages), returns=step.old_values)
        for step in steps
    ]
    before = sft.mean_loss(bench.policy, shown_to(bench))
    critic = {name: weight.clone() for name, weight in learner.carried.modules["critic"].state_dict().items()}
    figures = learner.learn(still, seed=0)
    assert figures["demonstration_loss_nats_per_token"] == pytest.approx(before, abs=1e-4)
    assert sft.mean_loss(bench.policy, shown_to(bench)) < before - 0.05
    for name, weight in learner.carried.modules["critic"].state_dict().items():
        torch.testing.assert_close(weight, critic[name], rtol=0, atol=1e-6)


def test_edits_teach_what_a_reward_model_cannot_say_and_held_out_ones_teach_nothing(
    bench: Bench, trained: dict[str, pathlib.Path]
) -> None:
    """Users like kindness and corrected the colours: the policy stays kind and learns the new colours."""
    before = sft.mean_loss(bench.policy, shown_to(bench))
    losses = {}
    for name, weight, split in (("taught", 0.5, "train"), ("left out", 0.0, "train"), ("held out", 0.5, "held_out")):
        fresh = Bench(trained, bench.folder)
        told = datasets.Dataset([*making.feedback().examples, *edits(split)])
        settings = dataclasses.replace(
            QUICK, iterations=8, demonstration_weight=weight, demonstrations=len(making.COLOURS)
        )
        figures = fresh.train(settings, told)
        losses[name] = sft.mean_loss(fresh.policy, shown_to(fresh))
        assert figures["score"] > 0
        assert ("demonstration_loss_nats_per_token" in figures) is (name == "taught")
    assert losses["taught"] < 0.5 * before
    assert losses["left out"] > 0.8 * before and losses["held out"] > 0.8 * before


def test_without_edits_the_weight_of_demonstrations_changes_nothing(
    bench: Bench, trained: dict[str, pathlib.Path]
) -> None:
    bench.train(dataclasses.replace(QUICK, iterations=1, demonstration_weight=9.0))
    other = Bench(trained, bench.folder)
    other.train(dataclasses.replace(QUICK, iterations=1, demonstration_weight=0.0))
    for one, same in zip(bench.policy.model.parameters(), other.policy.model.parameters(), strict=True):
        assert torch.equal(one, same)


def test_what_is_drawn_depends_on_seed_prompt_and_sample_alone(bench: Bench) -> None:
    prompts = rollouts.encode_prompts(
        bench.policy,
        [(text.Message(text.Role.USER, text.Text(colour)),) for colour in making.COLOURS],
        encoding.Skipped(),
    )
    every = rollouts.sample(bench.policy, prompts, 2, 16, seed=5)
    again = rollouts.sample(bench.policy, prompts[:2], 2, 16, seed=5)
    other = rollouts.sample(bench.policy, prompts, 2, 16, seed=6)
    assert [one.token_ids for one in again] == [one.token_ids for one in every[:4]]
    assert [one.token_ids for one in other] != [one.token_ids for one in every]


def test_a_critic_of_other_tokens_starts_from_the_policy(bench: Bench) -> None:
    same = critics.SeparateCritic(bench.reward, bench.policy)
    assert torch.equal(same.model.score.weight, bench.reward.model.score.weight)
    bench.reward.tokenizer.add_tokens(["<|another|>"])
    other = critics.SeparateCritic(bench.reward, bench.policy)
    assert not other.model.score.weight.any()
