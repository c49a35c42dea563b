"""From scores to advantages: reward assembly, generalised advantage estimation, whitening. Pure functions.

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
