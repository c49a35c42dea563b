"""Negative log-likelihoods of what people said of answers, given the answers' rewards. Pure functions.

One proper likelihood for each kind of feedback; `trainer.reward.terms` holds the terms around the reward that they
share. Letters as in `trainer.steps.losses`.
"""

import torch
from torch.nn import functional

# So low that e^it is nothing, and finite: the gradient of logaddexp(-inf, -inf) is no number.
_LOG_OF_NOTHING = -1e9


def bradley_terry_nll(
    gaps_P: torch.Tensor, margins_P: torch.Tensor | None = None, agreement: float = 1.0
) -> torch.Tensor:
    """Negative log-likelihood of each comparison, with h = r_chosen - r_rejected - margin:

        -agreement log sigma(h) - (1 - agreement) log sigma(-h)

    Bradley and Terry 1952 (Biometrika 39:324); the margin is Touvron et al. 2023 (Llama 2), equation 2; the soft label
    is that of Wang et al. 2024 (arXiv:2401.06080). logsigmoid is linear far out, so a gap of -1000 costs 1000, not inf.
    """
    margin_gaps_P = gaps_P if margins_P is None else gaps_P - margins_P
    nll_P = -functional.logsigmoid(margin_gaps_P)
    if agreement == 1.0:
        return nll_P
    return agreement * nll_P - (1.0 - agreement) * functional.logsigmoid(-margin_gaps_P)


def centre_penalty(chosen_P: torch.Tensor, rejected_P: torch.Tensor, coefficient: float = 0.01) -> torch.Tensor:
    """coefficient (r_chosen + r_rejected)^2: pins the free constant of pair-only data (Eisenstein et al. 2023).

    With thumbs in the data their likelihood fixes the constant and this term must stay out.
    """
    return coefficient * (chosen_P + rejected_P).square()


def davidson_nll(
    gaps_P: torch.Tensor,
    ties_P: torch.Tensor,
    log_nu: torch.Tensor,
    margins_P: torch.Tensor | None = None,
    agreement: float = 1.0,
) -> torch.Tensor:
    """Negative log-likelihood of comparisons that may tie, h = r_first - r_second (- margin where decided):

        P(first) = e^{h/2} / Z    P(second) = e^{-h/2} / Z    P(tie) = nu / Z    Z = e^{h/2} + e^{-h/2} + nu

    Davidson 1970 (JASA 65:317), with worths e^r. gaps_P: preferred minus rejected where decided; of a tie
    either order. ties_P: 1 for a tie. Given that a comparison is decided this is Bradley and Terry's, and with nu -> 0
    it is everywhere. agreement: the soft label of `bradley_terry_nll`.
    """
    held_P = gaps_P if margins_P is None else gaps_P - margins_P * (1 - ties_P.to(gaps_P.dtype))
    logits_P_3 = torch.stack((held_P / 2, -held_P / 2, log_nu.expand_as(held_P)), dim=-1)
    logprobs_P_3 = torch.log_softmax(logits_P_3, dim=-1)
    decided_P = agreement * logprobs_P_3[:, 0] + (1.0 - agreement) * logprobs_P_3[:, 1]
    return -torch.where(ties_P.bool(), logprobs_P_3[:, 2], decided_P)


def plackett_luce_nll(rewards_P_K: torch.Tensor, ranks_P_K: torch.Tensor, log_deltas: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each ranking, which may tie and leave answers out; nothing is said of those.

    The best are chosen from all, then the best of the rest, and so on; a choice C of t answers out of A that tie has

        P(C | A) = f(C) / sum of f(S) over every S in A of at most D answers,   f(S) = delta_t e^{mean of r in S}

    with delta_1 = 1: Firth, Kosmidis and Turner 2019 (arXiv:1909.07123), for rankings Turner et al. 2020 (Computational
    Statistics 35:1027). Without ties (no deltas) this is Plackett 1975 and Luce 1959; of two answers it is
    Davidson's model with nu = delta_2. It sums to 1 over all rankings with ties of at most D = 1 + len(log_deltas).

    ranks_P_K: best first, so rising along K, equal for ties; 0 for padding, at the end. The sums over S are elementary
    symmetric polynomials, built up from the worst answer: K D^2 / 2 steps instead of 2^K.
    """
    rewards_of_K = rewards_P_K.unbind(dim=1)
    log_delta_of = torch.cat((log_deltas.new_zeros(1), log_deltas)).to(rewards_P_K)
    orders = range(1, len(log_delta_of) + 1)
    same_P_K_K = (ranks_P_K.unsqueeze(2) == ranks_P_K.unsqueeze(1)).to(rewards_P_K.dtype)
    sizes_P_K = same_P_K_K.sum(dim=2).long()
    means_P_K = (same_P_K_K @ rewards_P_K.unsqueeze(2)).squeeze(2) / sizes_P_K
    chosen_P_K = means_P_K + log_delta_of[(sizes_P_K - 1).clamp(max=len(log_deltas))]
    chosen_P_K = chosen_P_K.masked_fill(sizes_P_K > len(log_delta_of), -torch.inf)
    nothing_P = torch.zeros_like(rewards_of_K[0])
    # log_sums[t][j]: log of the sum over all choices of j answers so far of e^{(sum of r) / t}
    log_sums = {t: [nothing_P, *(nothing_P + _LOG_OF_NOTHING for _ in range(t))] for t in orders}
    nll_P = nothing_P
    for k in reversed(range(len(rewards_of_K))):
        is_there_P = ranks_P_K[:, k] > 0
        for t, sums in log_sums.items():
            for j in range(t, 0, -1):
                grown_P = torch.logaddexp(sums[j], sums[j - 1] + rewards_of_K[k] / t)
                sums[j] = torch.where(is_there_P, grown_P, sums[j])
        all_P = torch.logsumexp(torch.stack([log_delta_of[t - 1] + log_sums[t][t] for t in orders]), dim=0)
        is_first_P = is_there_P if k == 0 else is_there_P & (ranks_P_K[:, k] != ranks_P_K[:, k - 1])
        nll_P = nll_P + torch.where(is_first_P, all_P - chosen_P_K[:, k], 0.0)
    return nll_P


def ordered_logit_nll(
    rewards_P: torch.Tensor, stars_P: torch.Tensor, slope: torch.Tensor, cutpoints: torch.Tensor
) -> torch.Tensor:
    """Negative log-likelihood of stars, 1 to S, with S - 1 rising cutpoints: P(stars <= k) = sigma(cut_k - slope r).

    McCullagh 1980 (JRSS B 42:109), the proportional-odds model. With upper = cut_s - slope r and lower = cut_{s-1} -
    slope r, log(sigma(upper) - sigma(lower)) = log sigma(upper) + log sigma(-lower) + log(1 - e^{lower - upper}): no
    difference of two numbers near 1.
    """
    ends = cutpoints.new_full((1,), torch.inf)
    bounds = torch.cat((-ends, cutpoints, ends))
    upper_P, lower_P = bounds[stars_P], bounds[stars_P - 1]
    latent_P = slope * rewards_P
    inside_P = functional.logsigmoid(upper_P - latent_P) + functional.logsigmoid(latent_P - lower_P)
    return -(inside_P + torch.log(-torch.expm1(lower_P - upper_P)))


def thumb_nll(
    rewards_P: torch.Tensor, up_P: torch.Tensor, slope: torch.Tensor, intercepts_P: torch.Tensor
) -> torch.Tensor:
    """Negative log-likelihood of each thumb, P(up) = sigma(slope r + c + b_surface); `intercepts_P` is c + b_surface.

    up_P: 1 for up and 0 for down. -log sigma(z) for up and -log sigma(-z) for down, in the stable form.
    """
    return functional.binary_cross_entropy_with_logits(
        slope * rewards_P + intercepts_P, up_P.to(rewards_P.dtype), reduction="none"
    )
