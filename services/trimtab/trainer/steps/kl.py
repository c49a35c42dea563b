"""KL divergence: its estimators from samples, and the controller of its coefficient.

Estimators of KL(p || q) from a token drawn from p, with d = log p - log q (Schulman 2020, "Approximating KL
divergence"): k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d. As values k1 and k3 are unbiased. As losses they are not what
they seem: the expected gradient of k1 is 0, of k2 that of KL(p || q), of k3 that of KL(q || p). So the trainer puts the
KL into the reward. There k1 is exact: E[k1 grad log p] is the gradient of KL(p || q). k2 and k3 leave out the gradient
of the estimator itself, so they rest elsewhere; they are for those who come from verl or OpenRLHF with settings that
work.
"""

from collections.abc import Callable

import torch

# verl and OpenRLHF bound the estimate at 10 and the exponent at 20: a log-ratio of +19 must not become 1.8e8.
_ESTIMATE_CAP = 10.0
_EXPONENT_CAP = 20.0


def capped_log_ratio(logprobs_N: torch.Tensor, other_logprobs_N: torch.Tensor) -> torch.Tensor:
    """log p - log q, bounded so that exp of it is finite in fp32."""
    return (logprobs_N - other_logprobs_N).clamp(-_EXPONENT_CAP, _EXPONENT_CAP)


def k1(logprobs_N: torch.Tensor, reference_logprobs_N: torch.Tensor) -> torch.Tensor:
    return capped_log_ratio(logprobs_N, reference_logprobs_N).clamp(-_ESTIMATE_CAP, _ESTIMATE_CAP)


def k2(logprobs_N: torch.Tensor, reference_logprobs_N: torch.Tensor) -> torch.Tensor:
    return (capped_log_ratio(logprobs_N, reference_logprobs_N).square() / 2).clamp(max=_ESTIMATE_CAP)


def k3(logprobs_N: torch.Tensor, reference_logprobs_N: torch.Tensor) -> torch.Tensor:
    ratios_N = capped_log_ratio(reference_logprobs_N, logprobs_N)
    return (ratios_N.exp() - 1 - ratios_N).clamp(max=_ESTIMATE_CAP)


ESTIMATORS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


def adapted_coefficient(coefficient: float, kl: float, target: float, horizon: float, samples: int) -> float:
    """beta (1 + clip(kl / target - 1, -0.2, 0.2) samples / horizon): Ziegler et al. 2019, section 2.2.

    kl and target in nats per response; samples: answers seen since the last adaptation.
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return coefficient * (1.0 + error * samples / horizon)
