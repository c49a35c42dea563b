"""Losses as pure functions: tensors in, loss terms out. What is masked and what is averaged is decided by the caller.

Letters of the dimension suffixes, here and in every module of the trainer:
    B  sequences (answers)         T  positions of a padded row of response tokens
    N  response tokens of a batch laid end to end, so that no pad exists and none can be read
    P  pairs, thumbs, rankings …   D  hidden size            V  vocabulary
    K  answers of a ranking

The KL to the reference is in no loss here: it is part of the reward (`trainer.steps.advantages.assemble_rewards`),
because k1 in a loss has no gradient and k3 in a loss optimises the other KL (see `trainer.steps.kl`).
"""

import dataclasses
from collections.abc import Sequence

import torch

from trimtab.trainer.recipes import on_policy
from trimtab.trainer.steps import kl


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyTerms:
    """loss_N: per token. clipped_N: true where the clip took the gradient away."""

    loss_N: torch.Tensor
    clipped_N: torch.Tensor


def clipped_policy_loss(
    logprobs_N: torch.Tensor,
    old_logprobs_N: torch.Tensor,
    advantages_N: torch.Tensor,
    clip: float,
    dual_clip: float | None = None,
) -> PolicyTerms:
    """-min(rho A, clip(rho, 1 - clip, 1 + clip) A) per token, rho = pi / pi_old: Schulman et al. 2017, equation 7.

    dual_clip c: for A < 0 the objective is at least c A (Ye et al. 2020, equation 5), so one token whose ratio
    exploded cannot carry the whole step. Same convention as verl and OpenRLHF. The log-ratio is capped before exp.
    """
    ratios_N = kl.capped_log_ratio(logprobs_N, old_logprobs_N).exp()
    free_N = ratios_N * advantages_N
    held_N = ratios_N.clamp(1.0 - clip, 1.0 + clip) * advantages_N
    objective_N = torch.minimum(free_N, held_N)
    clipped_N = free_N > held_N
    if dual_clip is not None:
        floor_N = dual_clip * advantages_N
        below_N = (advantages_N < 0) & (objective_N < floor_N)
        objective_N = torch.where(below_N, floor_N, objective_N)
        clipped_N = clipped_N | below_N
    return PolicyTerms(loss_N=-objective_N, clipped_N=clipped_N)


def policy_gradient_loss(logprobs_N: torch.Tensor, advantages_N: torch.Tensor) -> PolicyTerms:
    """-A log pi per token: the policy gradient with a baseline (Williams 1992), as in A2C (Mnih et al. 2016)."""
    return PolicyTerms(loss_N=-advantages_N * logprobs_N, clipped_N=torch.zeros_like(advantages_N, dtype=torch.bool))


def truncated_weights(logprobs_N: torch.Tensor, sampler_logprobs_N: torch.Tensor, cap: float) -> torch.Tensor:
    """min(pi / mu, cap) per token, of tokens that mu drew and pi is trained on: truncated importance sampling (Ionides
    2008), as used between a serving engine and a trainer (Yao et al. 2025). Without the cap it is unbiased and can be
    of any size; with it tokens that mu hardly ever draws count too little.
    """
    return kl.capped_log_ratio(logprobs_N, sampler_logprobs_N).exp().clamp(max=cap)


def effective_share(weights_N: torch.Tensor) -> float:
    """(sum w)^2 / (n sum w^2): Kish's effective sample size, as a share of the n samples. 1 for equal weights."""
    squares = weights_N.square().sum().item()
    return weights_N.sum().item() ** 2 / (weights_N.numel() * squares) if squares > 0 else 0.0


def value_loss(values_N: torch.Tensor, returns_N: torch.Tensor) -> torch.Tensor:
    """1/2 (V - R)^2 per token."""
    return 0.5 * (values_N - returns_N).square()


def clipped_value_loss(
    values_N: torch.Tensor, old_values_N: torch.Tensor, returns_N: torch.Tensor, clip: float
) -> torch.Tensor:
    """1/2 max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2) per token: PPO2's value clipping, as in verl."""
    held_N = torch.clamp(values_N, min=old_values_N - clip, max=old_values_N + clip)
    return 0.5 * torch.maximum((values_N - returns_N).square(), (held_N - returns_N).square())


def token_mean(terms_N: torch.Tensor, total_tokens: float) -> torch.Tensor:
    """Sum over these tokens divided by the tokens of the *whole* batch.

    Summed over the micro-batches it is the mean over all tokens, however the batch was split. (A mean of micro-batch
    means is not.)
    """
    return terms_N.sum() / total_tokens


@dataclasses.dataclass(frozen=True, slots=True)
class Whole:
    """How much a whole step holds. longest: the length that "constant_length" counts every answer as."""

    tokens: int
    answers: int
    longest: int


def aggregated(terms_N: torch.Tensor, lengths: Sequence[int], how: str, whole: Whole) -> torch.Tensor:
    """One number of the terms of some answers; summed over the micro-batches of a step it is

        token_mean        sum over all tokens / tokens
        sequence_mean     mean over answers of the mean over the answer's tokens
        constant_length   sum over all tokens / (answers x longest): Dr. GRPO, arXiv:2503.20783

    lengths: tokens of each of these answers.
    """
    if how == on_policy.TOKEN_MEAN:
        return token_mean(terms_N, whole.tokens)
    if how == on_policy.CONSTANT_LENGTH:
        return terms_N.sum() / (whole.answers * whole.longest)
    lengths_N = torch.tensor([length for length in lengths for _ in range(length)], device=terms_N.device)
    return (terms_N / lengths_N).sum() / whole.answers
