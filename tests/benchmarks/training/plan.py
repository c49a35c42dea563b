"""What is measured: equal batches, steps and settings for both sides. Standard library only, both sides read it."""

import dataclasses

LR, CLIP = 1e-4, 1.0
THREADS = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """batch: examples a step (on-policy: answers a step). warm_up and measured: in passes over the data, or steps."""

    batch: int
    warm_up: int
    measured: int


PLANS = {
    "sft": Plan(24, 1, 2),
    "reward": Plan(16, 1, 2),
    "dpo": Plan(16, 1, 2),
    "kto": Plan(16, 1, 2),
    "ppo": Plan(64, 1, 4),
    "rloo": Plan(64, 1, 4),
    "grpo": Plan(64, 1, 4),
}
# On-policy: answers to a prompt, longest answer, passes over an iteration's answers.
SAMPLES, MAX_TOKENS, PPO_EPOCHS = 4, 64, 4
BETA = 0.05
