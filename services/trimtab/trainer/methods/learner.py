"""What PPO, A2C, RLOO and GRPO share: from scored answers to steps of the policy. Called by `methods.on_policy`.

`Learner.judge` turns score and per-token KL to the reference into rewards and asks the method for advantages; `learn`
takes the method's steps. The KL is part of the reward and of no loss (see `trainer.steps.kl`). Equations are in
`trainer.steps.advantages` and `trainer.steps.losses`; what is particular to a method in `actor_critic` and `grouped`.

Answers that another process drew (`Rollout.staleness` is a number) were drawn with probabilities mu that differ from
the policy's, by its number format or because it is behind. Their log-probabilities pi_old are computed again before
the first step, the clip is around pi_old, and the loss of each token is weighted by min(pi_old / mu, cap).

What people wrote themselves (edits, demonstrations) is mixed in as Ouyang et al. 2022 mix in pretraining data
(arXiv:2203.02155, equation 2, "PPO-ptx"): each step ascends

    E[objective] + gamma E[log pi(token of a demonstrated answer)],  gamma = `demonstration_weight`,

the second mean over the tokens of `demonstrations` answers drawn anew for the step. Where there are fewer, all of them
are shown and gamma is as much less: the only edit of a line must not be learned by heart. A reward model can only rank
what the policy says; a corrected fact tells it what to say.
"""

import abc
import collections
import dataclasses
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from trimtab.core import errors
from trimtab.modeling import loading, logprobs, rewards
from trimtab.trainer import recipes
from trimtab.trainer.data import encoding
from trimtab.trainer.methods import rollouts, sft
from trimtab.trainer.steps import advantages, checkpoints, kl, losses, optim

# An answer whose advantages are all smaller teaches nothing.
_NOTHING = 1e-6


@dataclasses.dataclass(frozen=True, slots=True)
class Models:
    """What a method starts from. reference: of the KL. reward: None where a service scores and no critic needs it."""

    policy: loading.LoadedPolicy
    reference: loading.LoadedPolicy
    reward: rewards.LoadedReward | None

    @property
    def scoring(self) -> rewards.LoadedReward:
        """The reward model, which a critic may start as a copy of. InvalidField when there is none."""
        if self.reward is None:
            raise errors.InvalidField("reward_id", "is missing", "name the reward model of this run")
        return self.reward


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One answer with all that a step needs; one value per response token in each tensor.

    weights: of a token that another process drew; None: 1. old_values, returns: for a critic; empty without one.
    """

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    old_logprobs: torch.Tensor
    advantages: torch.Tensor
    weights: torch.Tensor | None = None
    old_values: torch.Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))
    returns: torch.Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclasses.dataclass(frozen=True, slots=True)
class Rewarded:
    """An iteration's answers with their rewards, in rows padded with zeros. scores_B: with what a missing end costs."""

    answers: Sequence[rollouts.Rollout]
    scores_B: torch.Tensor
    mask_B_T: torch.Tensor
    old_B_T: torch.Tensor
    reference_B_T: torch.Tensor
    rewards_B_T: torch.Tensor
    weights_B_T: torch.Tensor | None

    @property
    def prompts(self) -> list[tuple[int, ...]]:
        return [one.prompt.tokens for one in self.answers]

    @property
    def responses(self) -> list[tuple[int, ...]]:
        return [one.response for one in self.answers]

    def kl_nats(self, estimator: str = "k1") -> float:
        """KL to the reference, mean over the answers."""
        kl_B_T = torch.where(self.mask_B_T, kl.ESTIMATORS[estimator](self.old_B_T, self.reference_B_T), 0.0)
        return kl_B_T.sum(dim=1).mean().item()

    def row(self, table_B_T: torch.Tensor, i: int) -> torch.Tensor:
        return table_B_T[i, : len(self.answers[i].response)]


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """advantages_B_T with what a critic is trained towards; used: rows that a step may use, where not all."""

    advantages_B_T: torch.Tensor
    values_B_T: torch.Tensor | None = None
    returns_B_T: torch.Tensor | None = None
    used: Sequence[int] | None = None
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Learner(abc.ABC):
    """The policy in training with its optimizer, and the coefficient of the KL.

    A method says how advantages are estimated (`_estimate`) and what a token's loss is (`_terms`); one with a critic
    adds that (`modules`, `_accumulate`, `_take_step`).
    """

    phase: ClassVar[str]
    # passes over an iteration's answers and steps in each; more than one where a method reuses them
    epochs = 1
    minibatches = 1

    def __init__(
        self, models: Models, settings: recipes.OnPolicySettings, demonstrations: Sequence[sft.Demonstration] = ()
    ) -> None:
        self.policy, self._reference, self._settings = models.policy, models.reference, settings
        self._demonstrations = demonstrations if settings.demonstration_weight else ()
        self._longest = min(settings.max_tokens, models.policy.profile.max_tokens)
        self._optimizer = self._policy_optimizer(settings.iterations * self.epochs * self.minibatches)
        # The coefficient of the KL adapts; what was left out is counted over the whole run.
        self.values: dict[str, Any] = {"beta": settings.beta, "unscored": 0, "dropped": {}}
        self.carried = checkpoints.Carried(self._modules(), self._optimizers(), self.values)

    @abc.abstractmethod
    def _estimate(self, rewarded: Rewarded) -> Estimate:
        """The advantage of every token."""

    @abc.abstractmethod
    def _terms(self, logprobs_N: torch.Tensor, old_N: torch.Tensor, advantages_N: torch.Tensor) -> losses.PolicyTerms:
        """The loss of every token, before weights and means."""

    def _modules(self) -> dict[str, nn.Module]:
        return {"policy": self.policy.model}

    def _optimizers(self) -> dict[str, optim.Optimizer]:
        return {"policy": self._optimizer}

    def _policy_optimizer(self, steps: int) -> optim.Optimizer:
        return optim.for_model(self.policy.model, self._settings, steps)

    @property
    def steps_skipped(self) -> int:
        return sum(optimizer.skipped for optimizer in self.carried.optimizers.values())

    def drop(self, counts: Mapping[str, int]) -> None:
        """Counts answers that were left out, by reason."""
        total = collections.Counter(self.values["dropped"])
        total.update(counts)
        self.values["dropped"] = dict(total)

    @torch.no_grad()
    def judge(self, batch: Sequence[rollouts.Rollout]) -> tuple[list[Step], dict[str, float]]:
        """Rewards and advantages of an iteration's answers; adapts the KL's coefficient.

        No steps: no answer could be compared with another. WrongState when no probability is a number.
        """
        rewarded = self._rewarded(batch)
        estimate = self._estimate(rewarded)
        used = range(len(rewarded.answers)) if estimate.used is None else estimate.used
        steps = [_step(rewarded, estimate, i) for i in used]
        kl_nats = rewarded.kl_nats()
        figures = {
            "kl_nats": kl_nats,
            "kl_k3_nats": rewarded.kl_nats("k3"),
            "beta": self.values["beta"],
            "answers": float(len(steps)),
            **_shares(steps),
            **estimate.figures,
        }
        self._adapt(kl_nats, len(rewarded.answers))
        return steps, figures

    def learn(self, steps: Sequence[Step], seed: int) -> dict[str, float]:
        """The steps of an iteration; figures are means over all its tokens and passes, norms over its steps."""
        totals: collections.defaultdict[str, float] = collections.defaultdict(float)
        norms: collections.defaultdict[str, list[float]] = collections.defaultdict(list)
        told: list[float] = []
        for epoch in range(self.epochs):
            order = list(range(len(steps)))
            random.Random(encoding.seed_of(seed, epoch)).shuffle(order)
            for number in range(self.minibatches):
                minibatch = [steps[i] for i in order[number :: self.minibatches]]
                if minibatch:
                    if self._demonstrations:
                        told.append(self.demonstrate(encoding.seed_of(seed, "shown", epoch, number)))
                    for name, norm in self._update(minibatch, totals).items():
                        norms[name].append(norm)
        tokens = totals.pop("tokens")
        return {
            **{name: value / tokens for name, value in totals.items()},
            **{
                f"{name}_gradient_norm": statistics.fmean(finite)
                for name, of_steps in norms.items()
                if (finite := [norm for norm in of_steps if math.isfinite(norm)])
            },
            **({"demonstration_loss_nats_per_token": statistics.fmean(told)} if told else {}),
        }

    def demonstrate(self, seed: int) -> float:
        """Adds the gradient of -gamma log p of a step's demonstrated answers; their mean -log p, in nats a token."""
        settings = self._settings
        count = min(len(self._demonstrations), settings.demonstrations)
        shown = rollouts.choose(self._demonstrations, count, seed)
        return sft.accumulate(
            self.policy, shown, settings, settings.demonstration_weight * count / settings.demonstrations
        )

    def _rewarded(self, batch: Sequence[rollouts.Rollout]) -> Rewarded:
        """The answers whose probabilities are numbers, with their rewards."""
        drawn = [torch.tensor(one.logprobs) for one in batch]
        old = self._old_logprobs(batch, drawn)
        prompts, responses = [one.prompt.tokens for one in batch], [one.response for one in batch]
        reference = logprobs.response_logprobs(self._reference.model, prompts, responses)
        sound = [i for i in range(len(batch)) if torch.isfinite(old[i]).all() and torch.isfinite(reference[i]).all()]
        if lost := len(batch) - len(sound):
            self.drop({"log-probability that is no number": lost})
        if not sound:
            raise errors.WrongState(
                f"No log-probability of {len(batch)} answers is a number; look at the policy and the reference."
            )
        answers = [batch[i] for i in sound]
        mask_B_T = advantages.mask_of([len(one.response) for one in answers])
        old_B_T, reference_B_T, drawn_B_T = (padded([rows[i] for i in sound]) for rows in (old, reference, drawn))
        estimator = kl.ESTIMATORS[self._settings.kl_estimator]
        missing = self._settings.missing_eos
        scores_B = torch.tensor([one.score + (0.0 if one.ended else missing) for one in answers])
        kl_B_T = torch.where(mask_B_T, estimator(old_B_T, reference_B_T), 0.0)
        elsewhere = any(self._drawn_elsewhere(one) for one in answers)
        cap = self._settings.importance_cap
        return Rewarded(
            answers=answers,
            scores_B=scores_B,
            mask_B_T=mask_B_T,
            old_B_T=old_B_T,
            reference_B_T=reference_B_T,
            rewards_B_T=advantages.assemble_rewards(scores_B, kl_B_T, mask_B_T, self.values["beta"]),
            weights_B_T=losses.truncated_weights(old_B_T, drawn_B_T, cap) if elsewhere else None,
        )

    def _old_logprobs(self, batch: Sequence[rollouts.Rollout], drawn: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Under the policy as it is: what the sampler said where it was the policy itself, else computed again."""
        old = list(drawn)
        again = [i for i, one in enumerate(batch) if self._drawn_elsewhere(one)]
        if again:
            rows = logprobs.response_logprobs(
                self.policy.model, [batch[i].prompt.tokens for i in again], [batch[i].response for i in again]
            )
            for i, row_T in zip(again, rows, strict=True):
                old[i] = row_T.float().cpu()
        return old

    def _drawn_elsewhere(self, one: rollouts.Rollout) -> bool:
        """Whether the sampler's log-probabilities differ from the policy's: weights, or bfloat16's rounding."""
        return one.staleness is not None or self._settings.precision != "float32"

    def _update(self, minibatch: Sequence[Step], totals: dict[str, float]) -> dict[str, float]:
        """One step; adds sums over tokens to `totals` and returns the gradients' norms."""
        tokens = sum(len(step.response) for step in minibatch)
        whole = losses.Whole(tokens, len(minibatch), self._longest)
        positions = logprobs.micro_batch_positions(self.policy.model, self._settings.micro_batch_positions)
        lengths, prompts = [len(step) for step in minibatch], [step.prompt for step in minibatch]
        for indices in logprobs.batches_by_length(lengths, positions, groups=prompts):
            self._accumulate([minibatch[i] for i in indices], whole, totals)
        totals["tokens"] += tokens
        return self._take_step()

    def _take_step(self) -> dict[str, float]:
        norm = self._optimizer.step()
        self._optimizer.zero_grad()
        return {"policy": norm}

    def _accumulate(self, part: Sequence[Step], whole: losses.Whole, totals: dict[str, float]) -> None:
        """Adds the gradient of some answers of a step."""
        logprobs_N = logprobs.flat_logprobs(
            self.policy.model, [step.prompt for step in part], [step.response for step in part]
        )
        self._policy_loss(logprobs_N, part, whole, totals).backward()  # type: ignore[no-untyped-call]

    def _policy_loss(
        self, logprobs_N: torch.Tensor, part: Sequence[Step], whole: losses.Whole, totals: dict[str, float]
    ) -> torch.Tensor:
        old_N, advantages_N = (
            torch.cat(rows).to(logprobs_N.device)
            for rows in ([step.old_logprobs for step in part], [step.advantages for step in part])
        )
        terms = self._terms(logprobs_N, old_N, advantages_N)
        weighted = [step.weights for step in part if step.weights is not None]
        loss_N = terms.loss_N * torch.cat(weighted).to(logprobs_N.device) if weighted else terms.loss_N
        totals["policy_loss"] += loss_N.sum().item()
        totals["clip_fraction"] += terms.clipped_N.sum().item()
        totals["approximate_kl"] += kl.k3(old_N, logprobs_N.detach()).sum().item()
        lengths = [len(step.response) for step in part]
        return losses.aggregated(loss_N, lengths, self._settings.aggregation, whole)

    def _adapt(self, kl_nats: float, samples: int) -> None:
        settings = self._settings
        if settings.kl_target:
            self.values["beta"] = kl.adapted_coefficient(
                self.values["beta"], kl_nats, settings.kl_target, settings.kl_horizon, samples
            )


def padded(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """rows_B_T, zeros after each row's end."""
    return torch.nn.utils.rnn.pad_sequence([row.cpu() for row in rows], batch_first=True)


def _step(rewarded: Rewarded, estimate: Estimate, i: int) -> Step:
    answer = rewarded.answers[i]
    with_critic = {
        name: rewarded.row(table, i)
        for name, table in (
            ("weights", rewarded.weights_B_T),
            ("old_values", estimate.values_B_T),
            ("returns", estimate.returns_B_T),
        )
        if table is not None
    }
    return Step(
        answer.prompt.tokens,
        answer.response,
        rewarded.row(rewarded.old_B_T, i),
        rewarded.row(estimate.advantages_B_T, i),
        **with_critic,
    )


def _shares(steps: Sequence[Step]) -> dict[str, float]:
    """zero_advantage_share: of the answers, those that teach nothing. effective_sample_share: of the tokens."""
    if not steps:
        return {}
    weights = [step.weights for step in steps if step.weights is not None]
    return {
        "zero_advantage_share": statistics.fmean(bool(step.advantages.abs().max() < _NOTHING) for step in steps),
        "effective_sample_share": losses.effective_share(torch.cat(weights)) if weights else 1.0,
    }
