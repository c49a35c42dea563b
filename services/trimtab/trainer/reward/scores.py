"""Rewards of feedback's answers by a model and its terms, without gradients. Used wherever a model is judged."""

from collections.abc import Sequence
from typing import Any

import torch

from trimtab.modeling import logprobs
from trimtab.trainer.reward import hub, material


@torch.no_grad()
def rewards_of(model: Any, terms: hub.RewardTerms, items: Sequence[material.Item]) -> torch.Tensor:
    """rewards_B in float64, of the items' answers in turn."""
    every = [answer for item in items for answer in item.answers]
    rewards_B = torch.zeros(len(every), dtype=torch.float64)
    for indices in logprobs.batches_by_length([len(answer) for answer in every], logprobs.FORWARD_POSITIONS):
        rewards_B[indices] = terms.of(model, [every[i] for i in indices]).double()
    return rewards_B
