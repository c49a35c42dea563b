"""The methods with a critic, PPO and A2C: what they add to `trainer.methods.learner`.

Both estimate advantages by GAE over the per-token rewards. PPO (Schulman et al. 2017, as used by Ouyang et al. 2022)
takes several steps on an iteration's answers, with the probability ratio and the values clipped around what they were
when the answers were drawn. A2C (Mnih et al. 2016) takes one plain step.
"""

import abc
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from trimtab.modeling import logprobs
from trimtab.trainer import recipes
from trimtab.trainer.methods import critics, learner, sft
from trimtab.trainer.steps import adapting, advantages, losses, optim


class ActorCritic(learner.Learner):
    """settings: those of the critic are in them too."""

    def __init__(
        self,
        models: learner.Models,
        settings: recipes.PPOSettings | recipes.A2CSettings,
        demonstrations: Sequence[sft.Demonstration] = (),
    ) -> None:
        self._critic_settings: recipes.CriticSettings = settings
        self.critic: critics.Critic
        if settings.critic == "joint":
            self.critic = critics.JointCritic(models.policy)
        else:
            self.critic = critics.SeparateCritic(models.scoring, models.policy)
            adapting.prepare(self.critic.model, settings, seed=0)
            steps = settings.iterations * self.epochs * self.minibatches
            self._critic_optimizer = optim.for_model(self.critic.model, settings, steps, lr=settings.critic_lr)
        super().__init__(models, settings, demonstrations)

    @abc.abstractmethod
    def _value_terms(self, values_N: torch.Tensor, old_N: torch.Tensor, returns_N: torch.Tensor) -> torch.Tensor:
        """The loss of every value."""

    def _modules(self) -> dict[str, nn.Module]:
        critic = self.critic.head if isinstance(self.critic, critics.JointCritic) else self.critic.model
        return {**super()._modules(), "critic": critic}

    def _optimizers(self) -> dict[str, optim.Optimizer]:
        if isinstance(self.critic, critics.JointCritic):
            return super()._optimizers()
        return {**super()._optimizers(), "critic": self._critic_optimizer}

    def _policy_optimizer(self, steps: int) -> optim.Optimizer:
        if not isinstance(self.critic, critics.JointCritic):
            return super()._policy_optimizer(steps)
        settings = self._critic_settings
        head = torch.optim.AdamW(self.critic.head.parameters(), settings.critic_lr, (0.9, 0.95), weight_decay=0.0)
        return optim.combined(self._settings, steps, [*optim.groups_of(self.policy.model, self._settings), head])

    def _estimate(self, rewarded: learner.Rewarded) -> learner.Estimate:
        settings, mask_B_T = self._critic_settings, rewarded.mask_B_T
        values_B_T = learner.padded(critics.response_values(self.critic, rewarded.prompts, rewarded.responses))
        result = advantages.generalised(rewarded.rewards_B_T, values_B_T, mask_B_T, settings.gamma, settings.lam)
        advantages_B_T = result.advantages_B_T
        if settings.whiten:
            advantages_B_T = torch.zeros_like(advantages_B_T)
            advantages_B_T[mask_B_T] = advantages.whitened(result.advantages_B_T[mask_B_T])
        explained = advantages.explained_variance(values_B_T[mask_B_T], result.returns_B_T[mask_B_T])
        figures = {"explained_variance": explained}
        return learner.Estimate(advantages_B_T, values_B_T, result.returns_B_T, figures=figures)

    def _accumulate(self, part: Sequence[learner.Step], whole: losses.Whole, totals: dict[str, float]) -> None:
        prompts, responses = [step.prompt for step in part], [step.response for step in part]
        if not isinstance(self.critic, critics.JointCritic):
            super()._accumulate(part, whole, totals)
            self._value_loss(self.critic.flat(prompts, responses), part, whole, totals).backward()  # type: ignore[no-untyped-call]
            return
        model = self.policy.model
        hidden_N_D = logprobs.hidden_before_responses(model.base_model, prompts, responses)
        logprobs_N = logprobs.logprobs_of_hidden(model, hidden_N_D, responses)
        loss = self._policy_loss(logprobs_N, part, whole, totals)
        value_loss = self._value_loss(self.critic.of_hidden(hidden_N_D), part, whole, totals)
        (loss + self._critic_settings.value_coefficient * value_loss).backward()  # type: ignore[no-untyped-call]

    def _value_loss(
        self, values_N: torch.Tensor, part: Sequence[learner.Step], whole: losses.Whole, totals: dict[str, float]
    ) -> torch.Tensor:
        old_N, returns_N = (
            torch.cat(rows).to(values_N.device)
            for rows in ([step.old_values for step in part], [step.returns for step in part])
        )
        loss_N = self._value_terms(values_N, old_N, returns_N)
        totals["value_loss"] += loss_N.sum().item()
        return losses.token_mean(loss_N, whole.tokens)

    def _take_step(self) -> dict[str, float]:
        norms = super()._take_step()
        if not isinstance(self.critic, critics.JointCritic):
            norms["critic"] = self._critic_optimizer.step()
            self._critic_optimizer.zero_grad()
        return norms


class PPO(ActorCritic):
    phase: ClassVar[str] = "proximal policy optimisation"

    def __init__(
        self,
        models: learner.Models,
        settings: recipes.PPOSettings,
        demonstrations: Sequence[sft.Demonstration] = (),
    ) -> None:
        self._clipping = settings
        self.epochs, self.minibatches = settings.epochs, settings.minibatches
        super().__init__(models, settings, demonstrations)

    def _terms(self, logprobs_N: torch.Tensor, old_N: torch.Tensor, advantages_N: torch.Tensor) -> losses.PolicyTerms:
        settings = self._clipping
        return losses.clipped_policy_loss(logprobs_N, old_N, advantages_N, settings.clip, settings.dual_clip)

    def _value_terms(self, values_N: torch.Tensor, old_N: torch.Tensor, returns_N: torch.Tensor) -> torch.Tensor:
        return losses.clipped_value_loss(values_N, old_N, returns_N, self._clipping.value_clip)


class A2C(ActorCritic):
    phase: ClassVar[str] = "advantage actor-critic"

    def _terms(self, logprobs_N: torch.Tensor, old_N: torch.Tensor, advantages_N: torch.Tensor) -> losses.PolicyTerms:
        return losses.policy_gradient_loss(logprobs_N, advantages_N)

    def _value_terms(self, values_N: torch.Tensor, old_N: torch.Tensor, returns_N: torch.Tensor) -> torch.Tensor:
        return losses.value_loss(values_N, returns_N)
