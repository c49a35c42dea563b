"""On equal weights and batches Trimtab's losses and gradients are TRL's, where the two mean the same.

What TRL computes lies in `golden` (written by `regenerate`). Where the two differ on purpose, and why, is listed in
docs/benchmarks/training.md.
"""

import json
import math
import pathlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.contract.training import cases

from trimtab.core import text
from trimtab.modeling import answers, loading, logprobs, rewards
from trimtab.trainer import recipes
from trimtab.trainer.methods import actor_critic, dpo, kto, learner, references, rollouts, sft
from trimtab.trainer.reward import hub, labels, material
from trimtab.trainer.steps import losses

torch.set_num_threads(1)
CLOSE = {"rel": 1e-5, "abs": 1e-5}
Figures = dict[str, float]


def trl(name: str) -> Figures:
    folder = pathlib.Path(__file__).parent / "golden"
    found: dict[str, Figures] = {}
    for file in ("trl.json", "trl_ppo.json"):
        found |= json.loads((folder / file).read_text())["cases"]
    return found[name]


def policy(phase: float = cases.POLICY) -> loading.LoadedPolicy:
    """Without a tokenizer's words: what is compared begins where there are tokens."""
    tokenizer = SimpleNamespace(get_vocab=lambda: {"the": cases.VOCABULARY}, eos_token_id=cases.END, pad_token_id=1)
    return loading.LoadedPolicy(cases.causal(phase), tokenizer, loading.ServingProfile(max_tokens=cases.LONGEST))


def encoded(prompts: Sequence[list[int]], said: Sequence[list[int]]) -> list[answers.Answer]:
    return [answers.Answer(tuple(prompt), tuple(one)) for prompt, one in zip(prompts, said, strict=True)]


@pytest.mark.parametrize("positions", [8, 512])
def test_supervised_fine_tuning(positions: int) -> None:
    ours = policy()
    shown = [sft.Demonstration(answer, 1.0) for answer in encoded(cases.PROMPTS, cases.CHOSEN)]
    loss = sft.accumulate(ours, shown, recipes.SFTSettings(micro_batch_positions=positions))
    expected = trl("sft")
    assert loss == pytest.approx(expected["loss"], **CLOSE)
    assert cases.norm(ours.model) == pytest.approx(expected["gradient_norm"], **CLOSE)


@pytest.mark.parametrize(("case", "centred"), [("reward", False), ("reward centred, with margins", True)])
def test_reward_model(case: str, centred: bool) -> None:
    model = cases.scoring()
    items = [
        material.Item(
            labels.Pair("chosen", "rejected", tie=False), (chosen, rejected), margin=margin if centred else 0.0
        )
        for chosen, rejected, margin in zip(
            encoded(cases.PROMPTS, cases.CHOSEN), encoded(cases.PROMPTS, cases.REJECTED), cases.MARGINS, strict=True
        )
    ]
    terms = hub.RewardTerms(material.Feedback(tuple(items)), recipes.RewardSettings())
    terms.only_compares = centred
    loss = terms.loss(terms.of(model, [one for item in items for one in item.answers]), items) / len(items)
    loss.backward()
    expected = trl(case)
    assert loss.item() == pytest.approx(expected["loss"], **CLOSE)
    assert cases.norm(model) == pytest.approx(expected["gradient_norm"], **CLOSE)


@pytest.mark.parametrize(
    ("theirs", "settings"),
    [
        ("sigmoid", {"loss": "sigmoid"}),
        ("robust", {"loss": "robust", "label_smoothing": 0.1}),
        ("hinge", {"loss": "hinge"}),
        ("ipo", {"loss": "ipo_per_token"}),
    ],
)
def test_direct_preference_optimisation(theirs: str, settings: dict[str, Any]) -> None:
    ours, reference = policy(), policy(cases.REFERENCE)
    groups = [
        references.Group(tuple(prompt), (tuple(chosen), tuple(rejected)))
        for prompt, chosen, rejected in zip(cases.PROMPTS, cases.CHOSEN, cases.REJECTED, strict=True)
    ]
    given = references.all_sums(reference.model, groups).view(-1, 2)
    batch = [dpo.Judged(dpo.Pair(group, 1.0), given_2) for group, given_2 in zip(groups, given, strict=True)]
    figures = dpo.accumulate(ours, batch, recipes.DPOSettings(beta=cases.BETA, **settings))
    expected = trl(f"dpo {theirs}")
    assert figures["loss"] == pytest.approx(expected["loss"], **CLOSE)
    assert cases.norm(ours.model) == pytest.approx(expected["gradient_norm"], **CLOSE)


def test_kahneman_tversky_optimisation_with_the_reference_point_of_one_batch() -> None:
    ours, reference = policy(), policy(cases.REFERENCE)
    voted = encoded(cases.PROMPTS, cases.CHOSEN)
    partners = [tuple(one) for one in cases.MISMATCHED]
    groups = [references.Group(one.prompt, (one.response, other)) for one, other in zip(voted, partners, strict=True)]
    given = references.all_sums(reference.model, groups).view(-1, 2).tolist()
    batch = [
        kto.Judged(kto.Vote(one, desirable, 1.0), mine, partner, other)
        for one, desirable, partner, (mine, other) in zip(voted, cases.DESIRABLE, partners, given, strict=True)
    ]
    settings = recipes.KTOSettings(beta=cases.BETA, kl_memory=1.0)
    point = max(0.0, kto.reference_point(ours, batch, 0.0, settings))
    figures = kto.accumulate(ours, batch, kto.Value(point, cases.BETA, 1.0, 1.0), 512)
    expected = trl("kto")
    assert expected["kl"] > 0.01
    assert point == pytest.approx(expected["kl"], **CLOSE)
    assert figures["loss"] == pytest.approx(expected["loss"], **CLOSE)
    assert cases.norm(ours.model) == pytest.approx(expected["gradient_norm"], **CLOSE)


@pytest.mark.parametrize(
    ("theirs", "ours"), [("dapo", "token_mean"), ("grpo", "sequence_mean"), ("dr_grpo", "constant_length")]
)
def test_group_relative_policy_optimisation_without_its_kl(theirs: str, ours: str) -> None:
    model = cases.causal(cases.POLICY)
    loss = group_loss(model, cases.causal(cases.OLD), ours)
    expected = trl(f"grpo {theirs}")
    assert loss == pytest.approx(expected["loss"], **CLOSE)
    assert cases.norm(model) == pytest.approx(expected["gradient_norm"], **CLOSE)


def test_leave_one_out_at_the_first_step_on_the_same_answers() -> None:
    """There the ratios of answers and of tokens are both 1; TRL divides by the answers, ours by their longest too."""
    model = cases.causal(cases.POLICY)
    group_loss(model, cases.causal(cases.POLICY), "constant_length")
    expected = trl("rloo at the first step")["gradient_norm"]
    assert cases.norm(model) * cases.LONGEST == pytest.approx(expected, **CLOSE)


def group_loss(model: Any, old: Any, aggregation: str) -> float:
    """Adds the gradient of the clipped loss of the cases' groups; the loss."""
    lengths = [len(one) for one in cases.GROUP_ANSWERS]
    with torch.no_grad():
        old_N = logprobs.flat_logprobs(old, cases.GROUP_PROMPTS, cases.GROUP_ANSWERS)
    logprobs_N = logprobs.flat_logprobs(model, cases.GROUP_PROMPTS, cases.GROUP_ANSWERS)
    advantages_N = torch.tensor(cases.ADVANTAGES).repeat_interleave(torch.tensor(lengths))
    terms = losses.clipped_policy_loss(logprobs_N, old_N, advantages_N, cases.CLIP)
    whole = losses.Whole(sum(lengths), len(lengths), cases.LONGEST)
    loss = losses.aggregated(terms.loss_N, lengths, aggregation, whole)
    loss.backward()
    return loss.item()


def test_proximal_policy_optimisation_from_answers_to_gradients() -> None:
    """Rewards with their KL, values, GAE, clipping: a whole iteration of TRL 1.12's trainer.

    Its advantages have the sample's standard deviation, ours the population's: a factor on the policy's loss.
    """
    expected = trl("ppo")
    settings = recipes.PPOSettings(
        iterations=1, epochs=1, minibatches=1, beta=cases.BETA, clip=cases.CLIP, value_clip=cases.CLIP, dual_clip=1e3,
        demonstration_weight=0.0, optimizer="adamw", max_grad_norm=1e9,
    )  # fmt: skip
    ours, reward = policy(), cases.scoring()
    with torch.no_grad():
        old = logprobs.response_logprobs(cases.causal(cases.OLD), cases.DRAWN_PROMPTS, cases.DRAWN)
        judge = rewards.LoadedReward(reward, ours.tokenizer)
        scores = [one.mean for one in judge.measure(encoded(cases.DRAWN_PROMPTS, cases.DRAWN))]
    assert sum(scores) / len(scores) == pytest.approx(expected["score"], **CLOSE)
    critic = rewards.LoadedReward(cases.scoring(cases.REWARD + 0.2), ours.tokenizer)
    batch = [
        rollouts.Rollout(
            group=number,
            prompt=rollouts.EncodedPrompt((text.Message(text.Role.USER, text.Text("")),), tuple(prompt)),
            response=tuple(answer),
            logprobs=tuple(old[number].tolist()),
            score=scores[number],
            ended=True,
        )
        for number, (prompt, answer) in enumerate(zip(cases.DRAWN_PROMPTS, cases.DRAWN, strict=True))
    ]
    method = actor_critic.PPO(learner.Models(ours, policy(cases.REFERENCE), critic), settings)
    steps, judged = method.judge(batch)
    figures = method.learn(steps, seed=1)
    tokens = sum(map(len, cases.DRAWN))
    sample = math.sqrt((tokens - 1) / tokens)
    assert judged["kl_nats"] == pytest.approx(expected["kl"], **CLOSE)
    assert expected["clip_fraction"] > 0
    assert figures["clip_fraction"] == pytest.approx(expected["clip_fraction"], **CLOSE)
    assert figures["policy_loss"] * sample == pytest.approx(expected["policy_loss"], **CLOSE)
    assert figures["value_loss"] == pytest.approx(expected["value_loss"], **CLOSE)
    assert figures["policy_gradient_norm"] * sample == pytest.approx(expected["policy_gradient_norm"], **CLOSE)
    assert figures["critic_gradient_norm"] == pytest.approx(expected["critic_gradient_norm"], **CLOSE)
