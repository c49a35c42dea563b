"""Proximal policy optimisation with a critic: Schulman et al. 2017, as used by Ouyang et al. 2022. From `trainer.job`.

An iteration draws answers, scores them, turns score and per-token KL to the reference into rewards, estimates
advantages with the critic, and takes a few clipped steps with both. The KL is part of the reward and of no loss (see
`trainer.steps.kl`). Equations are in `trainer.steps.advantages` and `trainer.steps.losses`.

What people wrote themselves (edits, demonstrations) is mixed in as Ouyang et al. 2022 mix in pretraining data
(arXiv:2203.02155, equation 2, "PPO-ptx"): each step ascends

    E[clipped objective] + gamma E[log pi(token of a demonstrated answer)],  gamma = `demonstration_weight`,

the second mean over the tokens of `demonstrations` answers drawn anew for the step. Where there are fewer, all of them
are shown and gamma is as much less: the only edit of a line must not be learned by heart. A reward model can only rank
what the policy says; a corrected fact tells it what to say.
"""

import copy
import dataclasses
import random
import statistics
from collections.abc import Sequence
from typing import Any

import torch

from trimtab.core import errors
from trimtab.modeling import loading, logprobs, rewards
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.methods import rollouts, sft
from trimtab.trainer.steps import advantages, checkpoints, kl, losses, optim, progress


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One answer with all that a step needs; one value per response token in each tensor."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    old_logprobs: torch.Tensor
    old_values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


class Learner:
    """Policy and critic with their optimizers, and the coefficient of the KL."""

    def __init__(
        self,
        policy: loading.LoadedPolicy,
        reference: loading.LoadedPolicy,
        reward: rewards.LoadedReward,
        settings: recipes.PPOSettings,
        demonstrations: Sequence[sft.Demonstration] = (),
    ) -> None:
        steps = settings.iterations * settings.epochs * settings.minibatches
        self.policy, self._reference, self._settings = policy, reference, settings
        self._demonstrations = demonstrations if settings.demonstration_weight else ()
        self._critic = critic_from(reward, policy)
        self._policy_optimizer = optim.for_model(policy.model, settings, steps)
        self._critic_optimizer = optim.for_model(self._critic, settings, steps, lr=settings.critic_lr)
        # The coefficient of the KL adapts; answers without a score are counted over the whole run.
        self.values: dict[str, Any] = {"beta": settings.beta, "unscored": 0}
        self.carried = checkpoints.Carried(
            {"policy": policy.model, "critic": self._critic},
            {"policy": self._policy_optimizer, "critic": self._critic_optimizer},
            self.values,
        )

    @property
    def steps_skipped(self) -> int:
        return self._policy_optimizer.skipped + self._critic_optimizer.skipped

    @torch.no_grad()
    def judge(self, batch: Sequence[rollouts.Rollout]) -> tuple[list[Step], dict[str, float]]:
        """Rewards, values and whitened advantages of an iteration's answers; adapts the KL's coefficient."""
        prompts, responses = [one.prompt.tokens for one in batch], [one.response for one in batch]
        mask_B_T = advantages.mask_of([len(response) for response in responses])
        old_B_T = _padded([torch.tensor(one.logprobs) for one in batch])
        reference_B_T = _padded(logprobs.response_logprobs(self._reference.model, prompts, responses))
        values_B_T = _padded(response_values(self._critic, prompts, responses))
        kl_B_T = torch.where(mask_B_T, kl.k1(old_B_T, reference_B_T), 0.0)
        missing = self._settings.missing_eos
        scores_B = torch.tensor([one.score + (0.0 if one.ended else missing) for one in batch])
        rewards_B_T = advantages.assemble_rewards(scores_B, kl_B_T, mask_B_T, self.values["beta"])
        result = advantages.generalised(rewards_B_T, values_B_T, mask_B_T, self._settings.gamma, self._settings.lam)
        whitened_B_T = torch.zeros_like(result.advantages_B_T)
        whitened_B_T[mask_B_T] = advantages.whitened(result.advantages_B_T[mask_B_T])
        steps = [
            Step(prompts[i], responses[i], *(table[i, : len(responses[i])] for table in tables))
            for tables in [(old_B_T, values_B_T, whitened_B_T, result.returns_B_T)]
            for i in range(len(batch))
        ]
        figures = {"kl_nats": kl_B_T.sum(dim=1).mean().item(), "beta": self.values["beta"]}
        self._adapt(figures["kl_nats"], len(batch))
        return steps, figures

    def learn(self, steps: Sequence[Step], seed: int) -> dict[str, float]:
        """The clipped steps of an iteration; figures are means over all its tokens and passes."""
        totals = {"approximate_kl": 0.0, "clip_fraction": 0.0, "value_loss": 0.0, "policy_loss": 0.0}
        told: list[float] = []
        tokens = 0
        for epoch in range(self._settings.epochs):
            order = list(range(len(steps)))
            random.Random(encoding.seed_of(seed, epoch)).shuffle(order)
            for number in range(self._settings.minibatches):
                minibatch = [steps[i] for i in order[number :: self._settings.minibatches]]
                if minibatch:
                    if self._demonstrations:
                        told.append(self.demonstrate(encoding.seed_of(seed, "shown", epoch, number)))
                    tokens += self._update(minibatch, totals)
        figures = {name: value / tokens for name, value in totals.items()}
        return figures | ({"demonstration_loss_nats_per_token": statistics.fmean(told)} if told else {})

    def demonstrate(self, seed: int) -> float:
        """Adds the gradient of -gamma log p of a step's demonstrated answers; their mean -log p, in nats a token."""
        settings = self._settings
        count = min(len(self._demonstrations), settings.demonstrations)
        shown = rollouts.choose(self._demonstrations, count, seed)
        return sft.accumulate(
            self.policy, shown, settings, settings.demonstration_weight * count / settings.demonstrations
        )

    def _update(self, minibatch: Sequence[Step], totals: dict[str, float]) -> int:
        """One step of policy and critic; adds sums over tokens to `totals` and returns how many tokens there were."""
        tokens = sum(len(step.response) for step in minibatch)
        positions = self._settings.micro_batch_positions
        for indices in logprobs.batches_by_length([len(step) for step in minibatch], positions):
            part = [minibatch[i] for i in indices]
            self._policy_gradient(part, tokens, totals)
            self._critic_gradient(part, tokens, totals)
        for optimizer in (self._policy_optimizer, self._critic_optimizer):
            optimizer.step()
            optimizer.zero_grad()
        return tokens

    def _policy_gradient(self, part: Sequence[Step], tokens: int, totals: dict[str, float]) -> None:
        settings = self._settings
        logprobs_N = logprobs.flat_logprobs(
            self.policy.model, [step.prompt for step in part], [step.response for step in part]
        )
        old_N = torch.cat([step.old_logprobs for step in part])
        advantages_N = torch.cat([step.advantages for step in part])
        terms = losses.clipped_policy_loss(logprobs_N, old_N, advantages_N, settings.clip, settings.dual_clip)
        losses.token_mean(terms.loss_N, tokens).backward()  # type: ignore[no-untyped-call]
        totals["policy_loss"] += terms.loss_N.sum().item()
        totals["clip_fraction"] += terms.clipped_N.sum().item()
        totals["approximate_kl"] += kl.k3(old_N, logprobs_N.detach()).sum().item()

    def _critic_gradient(self, part: Sequence[Step], tokens: int, totals: dict[str, float]) -> None:
        values_N = _flat_values(self._critic, [step.prompt for step in part], [step.response for step in part])
        old_N = torch.cat([step.old_values for step in part])
        returns_N = torch.cat([step.returns for step in part])
        loss_N = losses.clipped_value_loss(values_N, old_N, returns_N, self._settings.value_clip)
        losses.token_mean(loss_N, tokens).backward()  # type: ignore[no-untyped-call]
        totals["value_loss"] += loss_N.sum().item()

    def _adapt(self, kl_nats: float, samples: int) -> None:
        settings = self._settings
        if settings.kl_target:
            self.values["beta"] = kl.adapted_coefficient(
                self.values["beta"], kl_nats, settings.kl_target, settings.kl_horizon, samples
            )


def train(
    policy: loading.LoadedPolicy,
    reference: loading.LoadedPolicy,
    reward: rewards.LoadedReward,
    dataset: datasets.Dataset,
    *,
    settings: recipes.PPOSettings,
    seed: int,
    report: progress.Progress,
) -> dict[str, float]:
    """Trains the policy's weights in place; the figures of the run and of its last iteration.

    Prompts are those of the training split, each once: nothing that is held out is ever answered here.
    """
    skipped = encoding.Skipped()
    pool = rollouts.encode_prompts(policy, encoding.distinct_prompts(dataset.of("train")), skipped)
    if not pool:
        raise errors.InvalidField("dataset_id", "holds no prompt that can be trained on", "choose another data set")
    demonstrations = sft.prepare(policy, dataset.of("train", *sft.TEACHING), skipped)
    learner = Learner(policy, reference, reward, settings, demonstrations)
    max_tokens = min(settings.max_tokens, policy.profile.max_tokens)
    done = report.begin("proximal policy optimisation", settings.iterations, learner.carried)
    for iteration in range(done, settings.iterations):
        prompts = rollouts.choose(pool, settings.prompts, encoding.seed_of(seed, "prompts", iteration))
        batch = rollouts.collect(
            policy,
            reward,
            prompts,
            samples=settings.samples,
            max_tokens=max_tokens,
            seed=encoding.seed_of(seed, "answers", iteration),
        )
        if not batch.kept:
            raise errors.WrongState(f"Of the {batch.unscored} answers of iteration {iteration + 1} none was scored.")
        learner.values["unscored"] += batch.unscored
        steps, judged = learner.judge(batch.kept)
        learned = learner.learn(steps, encoding.seed_of(seed, "order", iteration))
        report.step({**batch.figures(), **judged, **learned})
    books = {
        "prompts": float(len(pool)),
        "demonstrations": float(len(demonstrations)),
        "unscored": float(learner.values["unscored"]),
        "steps_skipped": float(learner.steps_skipped),
    }
    return {**report.figures, **books, **skipped.figures()}


def critic_from(reward: rewards.LoadedReward, policy: loading.LoadedPolicy) -> Any:
    """The critic: the reward model, head included, where it reads the policy's tokens; else the policy's body."""
    same_tokens = reward.tokenizer.get_vocab() == policy.tokenizer.get_vocab() and hasattr(reward.model, "score")
    return copy.deepcopy(reward.model if same_tokens else rewards.from_policy(policy).model)


def response_values(
    critic: Any, prompts: Sequence[logprobs.Tokens], responses: Sequence[logprobs.Tokens]
) -> list[torch.Tensor]:
    """The critic's value before each response token, one tensor per answer."""
    rows: list[torch.Tensor] = [torch.empty(0)] * len(prompts)
    lengths = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
    for indices in logprobs.batches_by_length(lengths, logprobs.FORWARD_POSITIONS):
        chosen = [responses[i] for i in indices]
        values_N = _flat_values(critic, [prompts[i] for i in indices], chosen)
        for i, row_T in zip(indices, logprobs.by_answer(values_N, chosen), strict=True):
            rows[i] = row_T
    return rows


def _flat_values(critic: Any, prompts: Sequence[logprobs.Tokens], responses: Sequence[logprobs.Tokens]) -> torch.Tensor:
    return critic.score(logprobs.hidden_before_responses(critic.base_model, prompts, responses))[:, 0]  # type: ignore[no-any-return]


def _padded(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """rows_B_T, zeros after each row's end."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
