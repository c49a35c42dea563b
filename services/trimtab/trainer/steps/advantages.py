"""From scores to advantages: reward assembly, generalised advantage estimation, whitening, baselines of a group of
answers to one prompt. Pure functions.

Rows are padded to the longest answer; which positions exist is a mask made from lengths (`mask_of`), never from token
ids: in most chat models the pad token is the end-of-sequence token. Letters as in `trainer.steps.losses`.
"""

import dataclasses
from collections.abc import Sequence

import torch


def mask_of(lengths: Sequence[int]) -> torch.Tensor:
    """mask_B_T: true at the first `length` positions of each row."""
    longest = max(lengths)
    return torch.arange(longest).unsqueeze(0) < torch.tensor(list(lengths)).unsqueeze(1)


def assemble_rewards(scores_B: torch.Tensor, kl_B_T: torch.Tensor, mask_B_T: torch.Tensor, beta: float) -> torch.Tensor:
    """-beta kl at every response token, plus the score at the last one: Ouyang et al. 2022, equation 2, per token.

    The last response token is the end-of-sequence token where one was generated; pads get exactly 0.
    """
    rewards_B_T = torch.where(mask_B_T, -beta * kl_B_T, 0.0)
    positions_T = torch.arange(mask_B_T.shape[1])
    last_B = torch.where(mask_B_T, positions_T, -1).amax(dim=1)
    at_last_B_T = positions_T.unsqueeze(0) == last_B.unsqueeze(1)
    return rewards_B_T + torch.where(at_last_B_T, scores_B.unsqueeze(1), 0.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Advantages:
    """Both 0 where the mask is false. returns_B_T: what the critic is trained towards."""

    advantages_B_T: torch.Tensor
    returns_B_T: torch.Tensor


def generalised(
    rewards_B_T: torch.Tensor, values_B_T: torch.Tensor, mask_B_T: torch.Tensor, gamma: float, lam: float
) -> Advantages:
    """A_t = delta_t + gamma lam A_next, delta_t = r_t + gamma V_next - V_t: Schulman et al. 2015 (arXiv:1506.02438).

    "next" is the next position whose mask is true: observations in between (a tool's output) are skipped, not
    multiplied into the recursion, which would cut the reward off from everything before the gap. `where`, not a
    product, so that whatever stands at a masked position, NaN included, cannot leak.
    """
    next_value_B = torch.zeros_like(values_B_T[:, 0])
    next_advantage_B = torch.zeros_like(next_value_B)
    columns = []
    for t in reversed(range(values_B_T.shape[1])):
        delta_B = rewards_B_T[:, t] + gamma * next_value_B - values_B_T[:, t]
        advantage_B = delta_B + gamma * lam * next_advantage_B
        next_advantage_B = torch.where(mask_B_T[:, t], advantage_B, next_advantage_B)
        next_value_B = torch.where(mask_B_T[:, t], values_B_T[:, t], next_value_B)
        columns.append(torch.where(mask_B_T[:, t], advantage_B, 0.0))
    advantages_B_T = torch.stack(columns[::-1], dim=1)
    return Advantages(advantages_B_T, torch.where(mask_B_T, advantages_B_T + values_B_T, 0.0))


def whitened(values_N: torch.Tensor) -> torch.Tensor:
    """(x - mean) / sqrt(variance + 1e-8), with the *population* variance: it is defined for a single token, where
    Bessel's is not. All values equal: zeros, there is nothing to prefer. The 1e-8 is verl's and OpenRLHF's.
    """
    centred_N = values_N - values_N.mean()
    return centred_N * (centred_N.square().mean() + 1e-8).rsqrt()


def leave_one_out(rewards_B: torch.Tensor, groups_B: torch.Tensor) -> torch.Tensor:
    """r - mean of the others' r = k / (k - 1) (r - mean of all k): RLOO, Ahmadian et al. 2024, arXiv:2402.14740.

    groups_B: the number of each answer's group, from 0. An answer that is alone in its group has nothing to be
    compared with: 0.
    """
    count_B, centred_B = _centred(rewards_B, groups_B)
    return torch.where(count_B > 1, centred_B * count_B / (count_B - 1).clamp(min=1), 0.0)


def group_normalised(rewards_B: torch.Tensor, groups_B: torch.Tensor, scale: bool = True) -> torch.Tensor:
    """(r - mean) / (s.d. + 1e-4) within each group: GRPO (Shao et al. 2024, arXiv:2402.03300, section 4.1.2).

    With Bessel's deviation and the 1e-4 of TRL. scale: off, r - mean, as in Dr. GRPO (Liu et al. 2025,
    arXiv:2503.20783), which shows that the division favours prompts whose answers are nearly all good or all bad.
    """
    count_B, centred_B = _centred(rewards_B, groups_B)
    if scale:
        variance_B = _of_group(centred_B.square(), groups_B) / (count_B - 1).clamp(min=1)
        centred_B = centred_B / (variance_B.sqrt() + 1e-4)
    return torch.where(count_B > 1, centred_B, 0.0)


def _centred(rewards_B: torch.Tensor, groups_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many are in each answer's group, and its reward less the group's mean."""
    count_B = _of_group(torch.ones_like(rewards_B), groups_B)
    return count_B, rewards_B - _of_group(rewards_B, groups_B) / count_B


def _of_group(values_B: torch.Tensor, groups_B: torch.Tensor) -> torch.Tensor:
    """The sum over each answer's group."""
    sums_G = torch.zeros(int(groups_B.max()) + 1 if groups_B.numel() else 0, dtype=values_B.dtype)
    return sums_G.index_add(0, groups_B, values_B)[groups_B]


def explained_variance(values_N: torch.Tensor, returns_N: torch.Tensor) -> float:
    """1 - Var(return - value) / Var(return): 1 for a critic that knows all, 0 for one that knows the mean.

    Below 0 for one that is worse than the mean; 0 where returns do not vary: there is nothing to explain.
    """
    spread = returns_N.var(unbiased=False).item()
    return 1.0 - (returns_N - values_N).var(unbiased=False).item() / spread if spread > 0 else 0.0
