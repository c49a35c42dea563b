"""The methods that compare the answers to one prompt, RLOO and GRPO: what they add to `trainer.methods.learner`.

Neither has a critic: the baseline of an answer is what the other answers to its prompt got. Every token of an answer
has the answer's advantage, made of its whole reward, score - beta KL. At the first step on an iteration's answers the
ratio is 1 and the gradient is A grad log pi(answer); later steps are clipped token by token as PPO's are.

Deliberate differences from TRL 1.16: the KL is in the reward of GRPO too (with k3 in the loss it rests below the
optimum), the ratio of RLOO is that of tokens and not of whole answers, and an answer without a score takes no part: it
is not in its group's mean. A group with fewer than two scored answers teaches nothing and is counted.
"""

import abc
import collections
from collections.abc import Sequence
from typing import ClassVar

import torch

from trimtab.trainer import recipes
from trimtab.trainer.methods import learner, sft
from trimtab.trainer.steps import advantages, losses


class Grouped(learner.Learner):
    def __init__(
        self,
        models: learner.Models,
        settings: recipes.RLOOSettings | recipes.GRPOSettings,
        demonstrations: Sequence[sft.Demonstration] = (),
    ) -> None:
        self._clipping: recipes.ClippedSettings = settings
        self.epochs, self.minibatches = settings.epochs, settings.minibatches
        super().__init__(models, settings, demonstrations)

    @abc.abstractmethod
    def _compared(self, rewards_B: torch.Tensor, groups_B: torch.Tensor, equal_B: torch.Tensor) -> torch.Tensor:
        """advantages_B: each answer against its group. equal_B: whether all of its group have the same score."""

    def _estimate(self, rewarded: learner.Rewarded) -> learner.Estimate:
        groups = [one.group for one in rewarded.answers]
        sizes = collections.Counter(groups)
        used = [i for i, group in enumerate(groups) if sizes[group] > 1]
        self.drop({"alone in its group": len(groups) - len(used)} if len(used) < len(groups) else {})
        scores = collections.defaultdict(set)
        for group, score in zip(groups, rewarded.scores_B.tolist(), strict=True):
            scores[group].add(score)
        equal = {group for group, different in scores.items() if len(different) == 1}
        # in fp64: answers of equal rewards must have advantages of 0
        rewards_B = rewarded.rewards_B_T.double().sum(dim=1)
        equal_B = torch.tensor([group in equal for group in groups])
        advantages_B = self._compared(rewards_B, torch.tensor(groups), equal_B).to(rewarded.rewards_B_T.dtype)
        advantages_B_T = torch.where(rewarded.mask_B_T, advantages_B.unsqueeze(1), 0.0)
        compared = {group for group, size in sizes.items() if size > 1}
        figures = {
            "groups": float(len(compared)),
            "groups_too_small": float(len(sizes) - len(compared)),
            "equal_score_group_share": len(equal & compared) / len(compared) if compared else 0.0,
        }
        return learner.Estimate(advantages_B_T, used=used, figures=figures)

    def _terms(self, logprobs_N: torch.Tensor, old_N: torch.Tensor, advantages_N: torch.Tensor) -> losses.PolicyTerms:
        settings = self._clipping
        return losses.clipped_policy_loss(logprobs_N, old_N, advantages_N, settings.clip, settings.dual_clip)


class RLOO(Grouped):
    """Ahmadian et al. 2024 (arXiv:2402.14740)."""

    phase: ClassVar[str] = "REINFORCE leave-one-out"

    def _compared(self, rewards_B: torch.Tensor, groups_B: torch.Tensor, equal_B: torch.Tensor) -> torch.Tensor:
        return advantages.leave_one_out(rewards_B, groups_B)


class GRPO(Grouped):
    """Shao et al. 2024 (arXiv:2402.03300), with the KL in the reward; `scale` off: Dr. GRPO's advantages.

    A group whose scores are all equal has nothing but the KL to compare, and in units of its own deviation that would
    pull as hard as any score, whatever beta is. It stays in units of reward, as it would weigh in a loss.
    """

    phase: ClassVar[str] = "group relative policy optimisation"

    def __init__(
        self,
        models: learner.Models,
        settings: recipes.GRPOSettings,
        demonstrations: Sequence[sft.Demonstration] = (),
    ) -> None:
        self._scale = settings.scale
        super().__init__(models, settings, demonstrations)

    def _compared(self, rewards_B: torch.Tensor, groups_B: torch.Tensor, equal_B: torch.Tensor) -> torch.Tensor:
        centred_B = advantages.group_normalised(rewards_B, groups_B, scale=False)
        scaled_B = advantages.group_normalised(rewards_B, groups_B, self._scale)
        return torch.where(equal_B, centred_B, scaled_B)
