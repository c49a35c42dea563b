"""PPO raises the reward, stays near its reference, and trains on nothing that was invented or held out."""

import dataclasses
import json
import math
import pathlib

import pytest
import torch
from tests.integration.training import making

from trimtab.core import errors, text
from trimtab.modeling import loading, rewards
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.methods import ppo, rollouts, sft
from trimtab.trainer.reward import fitting, material
from trimtab.trainer.steps import progress

torch.set_num_threads(1)
QUICK = recipes.PPOSettings(iterations=6, prompts=6, samples=6, max_tokens=16, lr=3e-3, critic_lr=3e-3)


@pytest.fixture(scope="module")
def trained(folder_of_policy: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """A policy that answers kindly or rudely as the coin falls, and a reward model that likes kind ones."""
    scratch = tmp_path_factory.mktemp("trained")
    report = progress.Progress(scratch)
    policy = loading.load_policy(folder_of_policy)
    settings = recipes.SFTSettings(epochs=25, batch=8, lr=5e-3, warmup_steps=4)
    sft.train(policy, making.demonstrations(), settings, 1, report)
    loading.save_policy(policy.model, policy.tokenizer, policy.profile, scratch / "policy")
    taught = recipes.RewardSettings(epochs=6, batch=8, lr=3e-3)
    feedback = material.prepare(
        encoding.encoder_of(policy), making.feedback(noise=0.0).of("train"), taught, encoding.Skipped()
    )
    reward, _ = fitting.fit(policy, feedback, taught, seed=1, report=report)
    rewards.save_reward_model(reward, scratch / "reward")
    return {"policy": scratch / "policy", "reward": scratch / "reward"}


class Bench:
    """What a run of PPO takes, loaded anew."""

    def __init__(self, trained: dict[str, pathlib.Path], folder: pathlib.Path) -> None:
        self.policy, self.reference = (loading.load_policy(trained["policy"]) for _ in range(2))
        self.reward = rewards.load_reward_model(trained["reward"])
        self.folder = folder

    def train(self, settings: recipes.PPOSettings = QUICK, dataset: datasets.Dataset | None = None) -> dict[str, float]:
        return ppo.train(
            self.policy,
            self.reference,
            self.reward,
            dataset or making.feedback(),
            settings=settings,
            seed=4,
            report=progress.Progress(self.folder),
        )

    def steps(self) -> list[dict[str, float]]:
        lines = (self.folder / progress.METRICS_FILE).read_text().splitlines()
        return [json.loads(line)["figures"] for line in lines]

    def rollouts(self) -> rollouts.Rollouts:
        prompts = rollouts.encode_prompts(
            self.policy, encoding.distinct_prompts(making.feedback().of("train")), encoding.Skipped()
        )
        return rollouts.collect(self.policy, self.reward, prompts, samples=4, max_tokens=16, seed=9)

    def learner(
        self, settings: recipes.PPOSettings = QUICK, demonstrations: tuple[sft.Demonstration, ...] = ()
    ) -> ppo.Learner:
        return ppo.Learner(self.policy, self.reference, self.reward, settings, demonstrations)


@pytest.fixture
def bench(trained: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> Bench:
    return Bench(trained, tmp_path)


def test_answers_become_what_the_reward_model_likes_and_every_figure_is_told(bench: Bench) -> None:
    figures = bench.train()
    steps = bench.steps()
    assert len(steps) == QUICK.iterations
    assert steps[-1]["score"] > steps[0]["score"] + 0.3
    wanted = {"score", "kl_nats", "approximate_kl", "clip_fraction", "entropy_nats_per_token", "value_loss",
              "response_tokens", "missing_eos_share", "unscored", "beta"}  # fmt: skip
    assert all(wanted <= step.keys() for step in steps)
    assert figures["unscored"] == 0 and figures["prompts"] == len(making.COLOURS)


def test_at_the_start_policy_and_reference_agree(bench: Bench) -> None:
    learner = bench.learner()
    steps, figures = learner.judge(bench.rollouts().kept)
    assert figures["kl_nats"] == pytest.approx(0.0, abs=1e-4)
    learned = learner.learn(steps[:1], seed=0)
    assert learned["approximate_kl"] == pytest.approx(0.0, abs=1e-6)
    assert learned["clip_fraction"] == 0.0


def test_the_kl_is_in_the_reward_and_in_no_loss(bench: Bench) -> None:
    """Without advantages there is nothing to learn, however far the reference is."""
    steps, _ = bench.learner().judge(bench.rollouts().kept)
    indifferent = [dataclasses.replace(step, advantages=torch.zeros_like(step.advantages)) for step in steps]
    before = [weight.clone() for weight in bench.policy.model.parameters()]
    with torch.no_grad():
        for weight in bench.reference.model.parameters():
            weight.mul_(1.5)
    bench.learner().learn(indifferent, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, bench.policy.model.parameters(), strict=True))


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


def test_the_step_is_the_same_for_every_split_into_micro_batches(
    bench: Bench, trained: dict[str, pathlib.Path]
) -> None:
    after = []
    for positions in (100_000, 40):
        fresh = Bench(trained, bench.folder)
        for model in (fresh.policy.model, fresh.reference.model, fresh.reward.model):
            model.double()
        learner = fresh.learner(dataclasses.replace(QUICK, micro_batch_positions=positions), shown_to(fresh))
        steps, _ = learner.judge(bench.rollouts().kept)
        learner.learn(steps, seed=0)
        after.append(list(fresh.policy.model.parameters()))
    for one, other in zip(*after, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


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
    learner = bench.learner(once, shown_to(bench))
    steps, _ = learner.judge(bench.rollouts().kept)
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
        torch.testing.assert_close(weight, critic[name], rtol=0, atol=1e-4)


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


def test_what_is_held_out_is_never_asked(bench: Bench) -> None:
    dataset = making.feedback()
    secret = [dataclasses.replace(one, prompt=making.prompt("secret")) for one in dataset.of("held_out")]
    pool = encoding.distinct_prompts(datasets.Dataset([*dataset.of("train"), *secret]).of("train"))
    assert len(pool) == len(making.COLOURS)
    only_held_out = datasets.Dataset(secret)
    with pytest.raises(errors.InvalidField, match="no prompt"):
        bench.train(dataset=only_held_out)


def test_answers_without_a_score_are_dropped_and_counted_not_zero(bench: Bench) -> None:
    scored = bench.rollouts()
    # the reward model's context ends before most answers do
    bench.reward.model.config.max_position_embeddings = 40
    lengths = sorted(len(one.prompt.tokens) + len(one.response) for one in scored.kept)
    bench.reward.model.config.max_position_embeddings = lengths[len(lengths) // 2]
    fewer = bench.rollouts()
    assert fewer.unscored > 0
    assert len(fewer.kept) + fewer.unscored == len(scored.kept)
    by_answer = {(one.prompt.tokens, one.response): one.score for one in scored.kept}
    assert all(by_answer[one.prompt.tokens, one.response] == pytest.approx(one.score, abs=1e-5) for one in fewer.kept)


def test_a_reward_model_that_gives_no_number_ends_the_run_with_unchanged_weights(bench: Bench) -> None:
    torch.nn.init.constant_(bench.reward.model.score.weight, math.nan)
    with pytest.raises(errors.WrongState, match="none was scored"):
        bench.train()
    for one, other in zip(bench.policy.model.parameters(), bench.reference.model.parameters(), strict=True):
        assert torch.equal(one, other)


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
    same = ppo.critic_from(bench.reward, bench.policy)
    assert torch.equal(same.score.weight, bench.reward.model.score.weight)
    bench.reward.tokenizer.add_tokens(["<|another|>"])
    other = ppo.critic_from(bench.reward, bench.policy)
    assert not other.score.weight.any()
