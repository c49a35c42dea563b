"""Heads in training: K linear heads on one body, so that their disagreement tells where the examples say little.

They differ in two ways. Each weighs the examples by draws of its own, Exp(1) scaled to mean 1: the weighted likelihood
bootstrap (Newton and Raftery 1994, JRSS B 56:3; Rubin 1981), whose fits are approximate draws of the posterior; unlike
Poisson or Bernoulli draws (Osband et al. 2016, arXiv:1602.04621) it leaves no example out, so that a kind with few
keeps all heads. And each begins elsewhere: in directions of the features that no example moves a bootstrap alone would
agree (Osband et al. 2018, arXiv:1806.03335), and that is where a policy goes astray.

Heads on one body know only part of the doubt: ensembles that share their pretraining share its mistakes (Eisenstein et
al. 2023, arXiv:2312.09244; for linear heads Zhang et al. 2024, arXiv:2401.16635). Mean less a multiple of the deviation
is the uncertainty-weighted objective of Coste et al. 2024 (arXiv:2310.02743), with the deviation in place of the
variance, so that both have one unit. Used by `trainer.reward.fitting`.
"""

from typing import Any

import torch
from torch import nn

from trimtab.modeling import heads

# Standard deviation of the heads' rewards before training, about: a prior of N(0, 1) on the reward of what was never
# judged. Smaller, heads agree on strange answers more than on known ones; larger, few examples do not overcome it
# (docs/decisions/0010).
SPREAD = 1.0


class Ensemble(nn.Module):
    """The heads' deviations from the model's own head, which stays their mean. examples: items of the training split.

    The mean starts where the model's own head does; what it draws follows from the seed alone.
    """

    def __init__(self, model: Any, count: int, examples: int, seed: int) -> None:
        super().__init__()
        drawing = torch.Generator().manual_seed(seed)
        head = heads.head_of(model)
        begun_K_D = torch.randn(count, head.in_features, generator=drawing) * SPREAD / head.in_features**0.5
        self.deviations = nn.Parameter((begun_K_D - begun_K_D.mean(dim=0)).to(head.weight))
        drawn_P_K = torch.empty(examples, count).exponential_(generator=drawing)
        self.shares_P_K = (drawn_P_K / drawn_P_K.mean(dim=0)).to(head.weight)

    def rewards(self, features_B_D: torch.Tensor, means_B: torch.Tensor) -> torch.Tensor:
        """rewards_K_B: of each head. means_B: the reward of the model's own head, with what is added to it."""
        return means_B + self.deviations @ features_B_D.T

    @torch.no_grad()
    def settle(self, model: Any, sums_D: torch.Tensor, answers: int) -> heads.Heads:
        """The finished heads; their mean moves into the model's own head. sums_D: of the training answers' features."""
        drift_D = self.deviations.mean(dim=0)
        heads.head_of(model).weight += drift_D
        deviations_K_D = (self.deviations - drift_D).double()
        centres_K = deviations_K_D @ (sums_D.double() / answers)
        return heads.Heads(deviations_K_D.float(), centres_K.float())
