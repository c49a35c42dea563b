"""Losses of direct alignment as pure functions of log-ratios. Called by `trainer.methods.dpo` and `.kto`.

The log-ratio of an answer y to a prompt x is log pi(y|x) - log pi_ref(y|x): summed over its tokens, the end-of-sequence
token among them, in nats. beta times it is the reward that the policy implies (Rafailov et al. 2023, equation 5). A
margin is the log-ratio of a pair's chosen answer less that of its rejected one. P: pairs, or single answers.
Every loss is finite, and so is its gradient, at any finite log-ratio.
"""

import torch
from torch.nn import functional


def dpo_loss(margins_P: torch.Tensor, beta: float, label_smoothing: float = 0.0) -> torch.Tensor:
    """-(1 - e) log sigma(beta m) - e log sigma(-beta m).

    e = 0: Rafailov et al. 2023, equation 7. e > 0: "conservative DPO" (Mitchell 2023), for labels that are wrong with
    probability e: least where the policy implies that very probability.
    """
    rewards_P = beta * margins_P
    kept_P, flipped_P = -functional.logsigmoid(rewards_P), -functional.logsigmoid(-rewards_P)
    return (1.0 - label_smoothing) * kept_P + label_smoothing * flipped_P


def robust_dpo_loss(margins_P: torch.Tensor, beta: float, flip_rate: float) -> torch.Tensor:
    """(-(1 - e) log sigma(beta m) + e log sigma(-beta m)) / (1 - 2 e): Chowdhury et al. 2024.

    Its expectation over labels flipped with probability e is the DPO loss of the true labels. Unbounded below.
    """
    rewards_P = beta * margins_P
    kept_P, flipped_P = -functional.logsigmoid(rewards_P), -functional.logsigmoid(-rewards_P)
    return ((1.0 - flip_rate) * kept_P - flip_rate * flipped_P) / (1.0 - 2.0 * flip_rate)


def hinge_loss(margins_P: torch.Tensor, beta: float) -> torch.Tensor:
    """max(0, 1 - beta m): SLiC's loss on the reward that the policy implies (Liu et al. 2024, RSO)."""
    return functional.relu(1.0 - beta * margins_P)


def ipo_loss(margins_P: torch.Tensor, beta: float) -> torch.Tensor:
    """(m - 1 / (2 beta))^2: Azar et al. 2023, equation 17; their tau is beta.

    With log-ratios divided by the answers' lengths it is the convention of TRL, which does not favour short answers.
    """
    return (margins_P - 1.0 / (2.0 * beta)).square()


def kto_loss(
    log_ratios_P: torch.Tensor,
    desirable_P: torch.Tensor,
    *,
    kl: float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> torch.Tensor:
    """lambda - v: Ethayarajh et al. 2024, section 4.1, with z0 = `kl`, a constant.

    v = lambda_D sigma(beta (r - z0)) for a desirable answer and lambda_U sigma(beta (z0 - r)) for an undesirable one,
    r its log-ratio. desirable_P: booleans.
    """
    gains_P = beta * (log_ratios_P - kl)
    kept_P = desirable_weight * torch.sigmoid(-gains_P)
    return torch.where(desirable_P, kept_P, undesirable_weight * torch.sigmoid(gains_P))


def running_kl(before: float, sample: float, size: int, memory: float) -> float:
    """z = d z_before + (1 - d) sample, d = (1 - 1 / memory)^size: KTO's reference point before its floor at 0.

    sample: mean log-ratio of `size` mismatched answers, each to another prompt than its own (Ethayarajh et al. 2024,
    section 4.1; biased, but cheap). An answer weighs the same whatever the size of its step, and with a memory of 1
    only the step's own count, as in the paper. Policy and reference are equal before the first step, so z starts at 0
    and there is no start to correct for.
    """
    decay = (1.0 - 1.0 / memory) ** size
    return decay * before + (1.0 - decay) * sample
