"""Critics of `trainer.methods.actor_critic`: the expected reward to come before each response token."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from trimtab.modeling import loading, logprobs, rewards


class SeparateCritic:
    """Its own model: the reward model, head included, where it reads the policy's tokens, else the policy's body."""

    def __init__(self, reward: rewards.LoadedReward, policy: loading.LoadedPolicy) -> None:
        same_tokens = reward.tokenizer.get_vocab() == policy.tokenizer.get_vocab() and hasattr(reward.model, "score")
        self.model: Any = copy.deepcopy(reward.model if same_tokens else rewards.from_policy(policy).model)

    def flat(self, prompts: Sequence[logprobs.Tokens], responses: Sequence[logprobs.Tokens]) -> torch.Tensor:
        """values_N of one batch in one forward pass: before every answer's tokens, end to end in the order given."""
        return self.model.score(logprobs.hidden_before_responses(self.model.base_model, prompts, responses))[:, 0]  # type: ignore[no-any-return]


class JointCritic:
    """A value head on the body of the policy itself; every value is 0 before it has learned."""

    def __init__(self, policy: loading.LoadedPolicy) -> None:
        weight = policy.model.get_output_embeddings().weight
        self._policy = policy.model
        with torch.random.fork_rng(devices=[]):
            self.head = nn.Linear(weight.shape[1], 1, device=weight.device, dtype=weight.dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def flat(self, prompts: Sequence[logprobs.Tokens], responses: Sequence[logprobs.Tokens]) -> torch.Tensor:
        return self.of_hidden(logprobs.hidden_before_responses(self._policy.base_model, prompts, responses))

    def of_hidden(self, hidden_N_D: torch.Tensor) -> torch.Tensor:
        """values_N of the hidden states before the response tokens, as the policy's own forward pass gives them."""
        return self.head(hidden_N_D)[:, 0]  # type: ignore[no-any-return]


Critic = SeparateCritic | JointCritic


def response_values(
    critic: Critic, prompts: Sequence[logprobs.Tokens], responses: Sequence[logprobs.Tokens]
) -> list[torch.Tensor]:
    """The critic's value before each response token, one tensor per answer."""
    rows: list[torch.Tensor] = [torch.empty(0)] * len(prompts)
    lengths = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
    groups = [tuple(prompt) for prompt in prompts]
    for indices in logprobs.batches_by_length(lengths, logprobs.FORWARD_POSITIONS, groups=groups):
        chosen = [responses[i] for i in indices]
        values_N = critic.flat([prompts[i] for i in indices], chosen)
        for i, row_T in zip(indices, logprobs.by_answer(values_N, chosen), strict=True):
            rows[i] = row_T
    return rows
