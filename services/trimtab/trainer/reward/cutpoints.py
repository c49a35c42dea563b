"""Cutpoints of stars: S - 1 rising thresholds for the S levels of a scale (`likelihoods.ordered_logit_nll`).

They start where they fit the levels as they occur, each half a rating more than it was given, and move from there by

    cut_1 = start_1 + shift        cut_{k+1} = cut_k + (start_{k+1} - start_k) e^{u_k},   u_k ~ N(0, 1)

so that they keep their order, and a level that nobody gave keeps some probability. Used by the reward hub and by the
bags of words it is compared with.
"""

import collections
import math
from collections.abc import Sequence

import torch


def start(stars: Sequence[int], scale: int) -> torch.Tensor:
    """The cutpoints that make every level as likely as it is among these stars, at reward 0. Float64."""
    counts = collections.Counter(stars)
    shares = [(counts[level] + 0.5) / (len(stars) + scale / 2) for level in range(1, scale + 1)]
    below = [math.fsum(shares[:level]) for level in range(1, scale)]
    return torch.tensor([math.log(share / (1.0 - share)) for share in below], dtype=torch.float64)


def moved(begun: torch.Tensor, shift: torch.Tensor, log_widths: torch.Tensor) -> torch.Tensor:
    """The cutpoints after these moves; log_widths: u, one fewer than there are cutpoints."""
    widths = begun.diff() * log_widths.exp()
    return torch.cat((begun[:1] + shift, widths)).cumsum(dim=0)


def penalty(log_widths: torch.Tensor) -> torch.Tensor:
    """Negative log prior of u, up to a constant."""
    return 0.5 * log_widths.square().sum()
