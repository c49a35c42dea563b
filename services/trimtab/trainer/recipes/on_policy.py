"""Settings of methods that learn from their own answers."""

import dataclasses

from trimtab.trainer.recipes import base


@dataclasses.dataclass(frozen=True, slots=True)
class PPOSettings(base.PolicySettings):
    """Proximal policy optimisation with a critic; the KL to the reference is part of the reward."""

    lr: float = 1.5e-3
    schedule: str = "linear"
    iterations: int = 18
    # Prompts of an iteration, and answers to each.
    prompts: int = 32
    samples: int = 4
    # Longest answer, in tokens; the serving profile may say less.
    max_tokens: int = 96
    # Passes over an iteration's answers, and steps in each.
    epochs: int = 1
    minibatches: int = 2
    critic_lr: float = 2e-3
    # Weight of the KL in the reward, per nat.
    beta: float = 0.05
    # KL to steer towards by adapting beta, nats per answer; 0 leaves beta as it is.
    kl_target: float = 0.0
    # Answers over which that adaptation takes full effect.
    kl_horizon: float = 10_000.0
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    value_clip: float = 0.5
    # Bound of the objective for a disliked token whose ratio exploded, in units of its advantage.
    dual_clip: float = 3.0
    # Added to the score of an answer that was cut off at `max_tokens`.
    missing_eos: float = -1.0
    # Weight of the edits and demonstrations of the data set, mixed into every step; 0 leaves them out.
    demonstration_weight: float = 0.5
    # How many of them are drawn for a step; where there are fewer, their weight is in proportion.
    demonstrations: int = 32

    def check(self) -> None:
        base.PolicySettings.check(self)
        base.positive(self, "iterations", "prompts", "samples", "max_tokens", "epochs", "minibatches", "critic_lr")
        base.positive(self, "kl_horizon", "clip", "value_clip", "dual_clip", "gamma", "demonstrations")
        base.not_negative(self, "beta", "kl_target", "lam", "demonstration_weight")
