"""One step of every method on the same policy, without taking it: its loss and the gradient of all that it moves."""

import copy
import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from tests.integration.training import making
from tests.integration.training.on_policy import bench
from torch import nn

from trimtab.modeling import loading, logprobs, rewards
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding, packing
from trimtab.trainer.methods import dpo, kto, learner, on_policy, pretrain, references, rollouts, sft
from trimtab.trainer.reward import ensembles, fitting, hub, material

_One = TypeVar("_One")


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """gradient: of all weights, one after the other, in fp64."""

    loss: float
    gradient: torch.Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """How a step is computed. positions: of a micro-batch. in_order: else its examples are turned round."""

    positions: int = 100_000
    in_order: bool = True

    def of(self, items: Sequence[_One]) -> list[_One]:
        return list(items) if self.in_order else random.Random(2).sample(items, len(items))


Step = Callable[[Cut], Outcome]
# A step of a policy; `far`: nats by which the reference, or what the policy was, differs from it.
Method = Callable[[loading.LoadedPolicy, float], Step]


class ExactNorm(nn.Module):
    """Llama's norm in the precision of its input; transformers' own works in fp32 whatever that is."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self._epsilon = norm.weight, norm.variance_epsilon

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self._epsilon)


def exact(model: Any) -> Any:
    """The model in fp64 throughout."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "variance_epsilon"):
                setattr(module, name, ExactNorm(child))
    return model.double()


def gradient(modules: Sequence[nn.Module]) -> torch.Tensor:
    found = [torch.zeros_like(w) if w.grad is None else w.grad for one in modules for w in one.parameters()]
    return torch.cat([one.flatten().double() for one in found])


def _cleared(*modules: nn.Module) -> None:
    for one in modules:
        one.zero_grad()


def _weight(i: int) -> float:
    return 1.0 + i % 3


def of_sft(policy: loading.LoadedPolicy, far: float) -> Step:
    shown = sft.prepare(policy, making.demonstrations(12).of("train"), encoding.Skipped())
    batch = [dataclasses.replace(one, weight=_weight(i)) for i, one in enumerate(shown)]

    def step(cut: Cut) -> Outcome:
        _cleared(policy.model)
        loss = sft.accumulate(policy, cut.of(batch), recipes.SFTSettings(micro_batch_positions=cut.positions))
        return Outcome(loss, gradient([policy.model]))

    return step


def of_pretraining(policy: loading.LoadedPolicy, far: float) -> Step:
    documents = pretrain.prepare(policy, making.texts().of("train"), encoding.Skipped())
    batch = list(packing.blocks(documents, 1, 20, 1))[-8:]

    def step(cut: Cut) -> Outcome:
        _cleared(policy.model)
        loss = pretrain.accumulate(policy, cut.of(batch), recipes.PretrainSettings(micro_batch_positions=cut.positions))
        return Outcome(loss, gradient([policy.model]))

    return step


def of_dpo(**settings: Any) -> Method:
    def method(policy: loading.LoadedPolicy, far: float) -> Step:
        pairs = dpo.prepare(policy, making.feedback(12, 0).of("train"), encoding.Skipped())
        given = references.all_sums(policy.model, [pair.group for pair in pairs]).view(-1, 2)
        given = given + torch.linspace(-2.0, 2.0, given.numel(), dtype=torch.float64).view_as(given)
        # of every second pair the margin is that far below, of the others above
        signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
        batch = [
            dpo.Judged(dataclasses.replace(pair, weight=_weight(i)), row + far * signs[i % 2])
            for i, (pair, row) in enumerate(zip(pairs, given, strict=True))
        ]

        def step(cut: Cut) -> Outcome:
            _cleared(policy.model)
            chosen = recipes.DPOSettings(micro_batch_positions=cut.positions, **settings)
            return Outcome(dpo.accumulate(policy, cut.of(batch), chosen)["loss"], gradient([policy.model]))

        return step

    return method


def of_kto(policy: loading.LoadedPolicy, far: float) -> Step:
    votes = kto.prepare(policy, making.feedback(0, 18).of("train"), encoding.Skipped())
    partners = kto.mismatched(policy, votes, 1)
    groups = [references.Group(one.answer.prompt, (one.answer.response,)) for one in votes]
    given = (references.all_sums(policy.model, groups) + torch.linspace(-2.0, 2.0, len(votes))).tolist()
    batch = [
        kto.Judged(dataclasses.replace(vote, weight=_weight(i)), given[i] + far * (-1) ** i, partners[i], -70.0 - i)
        for i, vote in enumerate(votes)
    ]

    def step(cut: Cut) -> Outcome:
        _cleared(policy.model)
        point = kto.reference_point(policy, cut.of(batch), 0.4, recipes.KTOSettings(kl_memory=16))
        assert point > 0.4
        value = kto.Value(point, beta=0.1, desirable_weight=1.0, undesirable_weight=1.5)
        figures = kto.accumulate(policy, cut.of(batch), value, cut.positions)
        return Outcome(figures["loss"], gradient([policy.model]))

    return step


def _scoring(policy: loading.LoadedPolicy) -> rewards.LoadedReward:
    """A reward model with a head that says something, of the policy's precision."""
    made = rewards.from_policy(policy)
    nn.init.normal_(made.model.score.weight, generator=torch.Generator().manual_seed(3))
    if policy.model.dtype == torch.float64:
        exact(made.model)
    return made


def of_reward(rows: Sequence[datasets.DatasetExample], heads: int = 1) -> Method:
    def method(policy: loading.LoadedPolicy, far: float) -> Step:
        reward, settings = _scoring(policy), recipes.RewardSettings()
        feedback = material.prepare(encoding.encoder_of(policy), rows, settings, encoding.Skipped())
        items = tuple(dataclasses.replace(one, weight=_weight(i)) for i, one in enumerate(feedback.items))
        feedback = material.Feedback(items)
        terms = hub.RewardTerms(feedback, settings).to(policy.model.dtype)
        ensemble = ensembles.Ensemble(reward.model, heads, len(feedback), 5) if heads > 1 else None
        moved = [reward.model, terms, *([ensemble] if ensemble else [])]
        with torch.no_grad():
            reward.model.score.weight.mul_(far or 1.0)

        def step(cut: Cut) -> Outcome:
            _cleared(*moved)
            chosen = dataclasses.replace(settings, micro_batch_positions=cut.positions)
            one = fitting.Learner(reward, terms, ensemble, feedback, chosen)
            return Outcome(one.accumulate(cut.of(range(len(feedback)))), gradient(moved))

        return step

    return method


def of_answers(settings: recipes.OnPolicySettings) -> Method:
    def method(policy: loading.LoadedPolicy, far: float) -> Step:
        reference = dataclasses.replace(policy, model=copy.deepcopy(policy.model))
        with torch.no_grad():
            for weight in reference.model.parameters():
                weight.mul_(1.05)
        models = learner.Models(policy, reference, _scoring(policy))
        drawn = _drawn(policy, far)

        def step(cut: Cut) -> Outcome:
            _cleared(policy.model)
            one = on_policy.learner_of(models, dataclasses.replace(settings, micro_batch_positions=cut.positions))
            modules = list(one.carried.modules.values())
            if getattr(settings, "critic", "") == "joint":
                with torch.no_grad():  # a head of zeros has no gradient for the body
                    modules[-1].weight.fill_(0.1)  # type: ignore[operator]
            steps, _ = one.judge(cut.of(drawn))
            figures = bench.not_taken(one, steps)
            return Outcome(figures["policy_loss"] + figures.get("value_loss", 0.0), gradient(modules))

        return step

    return method


@torch.no_grad()
def _drawn(policy: loading.LoadedPolicy, far: float) -> list[rollouts.Rollout]:
    """Answers of the data, three to a prompt, drawn by what the policy was: other probabilities, in both directions."""
    shown = [
        datasets.DatasetExample(said, "train", "demonstration", making.prompt(colour), response=said)
        for colour in making.COLOURS[:4]
        for said in (making.KIND.format(colour), making.RUDE.format(colour), making.KIND.format("brown or red"))
    ]
    encoded = sft.prepare(policy, shown, encoding.Skipped())
    rows = logprobs.response_logprobs(
        policy.model, [one.answer.prompt for one in encoded], [one.answer.response for one in encoded]
    )
    prompts = list(dict.fromkeys(one.answer.prompt for one in encoded))
    found = []
    for i, (one, example, row) in enumerate(zip(encoded, shown, rows, strict=True)):
        noise = torch.linspace(-0.35, 0.31, len(row)) + far * (-1) ** i
        prompt = rollouts.EncodedPrompt(encoding.messages_of(example.prompt), one.answer.prompt)
        old = tuple((row.float() + noise).tolist())
        group, score = prompts.index(one.answer.prompt), (i * 7 % 5) / 3.0 - 0.5
        found.append(rollouts.Rollout(prompt, one.answer.response, old, score, i % 4 != 0, group))
    return found


METHODS: dict[str, Method] = {
    "sft": of_sft,
    "pretrain": of_pretraining,
    "reward, every kind": of_reward(making.every_kind(6).examples),
    "reward, pairs alone": of_reward(making.feedback(9, 0).examples),
    "reward, four heads": of_reward(making.every_kind(4).examples, heads=4),
    "dpo": of_dpo(),
    "dpo, conservative": of_dpo(label_smoothing=0.1),
    "dpo, robust": of_dpo(loss="robust", label_smoothing=0.1),
    "dpo, hinge": of_dpo(loss="hinge"),
    "dpo, ipo": of_dpo(loss="ipo"),
    "dpo, ipo per token": of_dpo(loss="ipo_per_token"),
    "dpo, with likelihood": of_dpo(sft_weight=0.5),
    "kto": of_kto,
    **{name: of_answers(settings) for name, settings in bench.METHODS.items()},
    "ppo, by sequence": of_answers(dataclasses.replace(bench.PPO, aggregation="sequence_mean")),
    "grpo, by sequence": of_answers(dataclasses.replace(bench.METHODS["grpo"], aggregation="sequence_mean")),
}
