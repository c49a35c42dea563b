"""Settings of the methods that learn from their own answers: PPO, A2C, RLOO and GRPO."""

import dataclasses

from trimtab.trainer.recipes import base

TOKEN_MEAN, SEQUENCE_MEAN, CONSTANT_LENGTH = "token_mean", "sequence_mean", "constant_length"


@dataclasses.dataclass(frozen=True, slots=True)
class OnPolicySettings(base.PolicySettings):
    """What all of them have.

    The KL to the reference is part of the reward, never of the loss: there k3 and the exact KL rest below the optimum
    (tests/unit/trainer/steps/test_reference_bandit.py shows where), so no setting puts them there.
    """

    # The field's for all weights of 1 to 8 billion; a policy of half a million weights wants about 1.5e-3.
    lr: float = 1e-6
    schedule: str = "linear"
    iterations: int = 18
    # Prompts of an iteration, and answers to each.
    prompts: int = 32
    samples: int = 4
    # Different prompts of one user session that are asked at most: nobody's chat becomes the policy's whole world.
    per_session: int = 8
    # Longest answer, in tokens; the serving profile may say less.
    max_tokens: int = 96
    # Weight of the KL in the reward, per nat.
    beta: float = 0.05
    # Estimator of that KL: "k1", or as verl and OpenRLHF offer "k2" and "k3", less noisy and biased as a reward.
    kl_estimator: str = "k1"
    # KL to steer towards by adapting beta, nats per answer; 0 leaves beta as it is.
    kl_target: float = 0.0
    # Answers over which that adaptation takes full effect.
    kl_horizon: float = 10_000.0
    # Added to the score of an answer that was cut off at `max_tokens`.
    missing_eos: float = -1.0
    # How tokens weigh in a step: "token_mean" all alike, "sequence_mean" those of an answer one answer together,
    # "constant_length" all alike whatever the lengths (sum over answers x max_tokens: Dr. GRPO).
    aggregation: str = TOKEN_MEAN
    # Weight of the edits and demonstrations of the data set, mixed into every step; 0 leaves them out.
    demonstration_weight: float = 0.5
    # How many of them are drawn for a step; where there are fewer, their weight is in proportion.
    demonstrations: int = 32
    # Where answers are scored: empty for in process, else the address (host:port) of a reward service.
    scorer: str = ""
    # Where answers are drawn: empty for in process, else the address (host:port) of a process that serves the parent.
    sampler: str = ""
    # Iterations after which the weights are written down for the next process at that address; 0: it stays what it is.
    snapshot_every: int = 0
    # Iterations that the weights of such a process may be behind; answers of older ones are dropped and counted.
    max_staleness: int = 4
    # Largest weight of a token that such a process drew with another probability than the weights in training give.
    importance_cap: float = 2.0

    def check(self) -> None:
        base.PolicySettings.check(self)
        base.positive(self, "iterations", "prompts", "samples", "per_session", "max_tokens", "kl_horizon")
        base.positive(self, "demonstrations", "importance_cap")
        base.not_negative(self, "beta", "kl_target", "demonstration_weight", "max_staleness", "snapshot_every")
        base.one_of(self, "kl_estimator", "k1", "k2", "k3")
        base.one_of(self, "aggregation", TOKEN_MEAN, SEQUENCE_MEAN, CONSTANT_LENGTH)
        reach = self.max_staleness + 1
        if self.sampler and self.snapshot_every > reach:
            raise base.OutOfRange("snapshot_every", self.snapshot_every, "give at most `max_staleness` + 1")
        if self.sampler and not self.snapshot_every and self.iterations > reach:
            remedy = "the sampler stays what it is: give at most `max_staleness` + 1, or set `snapshot_every`"
            raise base.OutOfRange("iterations", self.iterations, remedy)


@dataclasses.dataclass(frozen=True, slots=True)
class ClippedSettings(OnPolicySettings):
    """Of methods that take several steps on the same answers."""

    # Passes over an iteration's answers, and steps in each.
    epochs: int = 1
    minibatches: int = 2
    # How far the ratio of new to old probability is followed.
    clip: float = 0.2
    # Bound of the objective for a disliked token whose ratio exploded, in units of its advantage.
    dual_clip: float = 3.0

    def check(self) -> None:
        OnPolicySettings.check(self)
        base.positive(self, "epochs", "minibatches", "clip")
        if not 1 < self.dual_clip < float("inf"):
            raise base.OutOfRange("dual_clip", self.dual_clip, "give a number above 1")


# without slots, so that it can be a second base
@dataclasses.dataclass(frozen=True)
class CriticSettings:
    """Of methods with a critic."""

    # "separate": a model of its own, from the reward model where it reads the policy's tokens, else from the policy.
    # "joint": a value head on the policy's body; half the memory, and its errors move the policy's body too.
    critic: str = "separate"
    # Highest learning rate of the separate model, or of the head; half a million weights want about 2e-3.
    critic_lr: float = 9e-6
    # Weight of the value loss beside the policy's, with a joint critic.
    value_coefficient: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    # Whether advantages get mean 0 and standard deviation 1 over the tokens of an iteration.
    whiten: bool = True

    def check_critic(self) -> None:
        base.one_of(self, "critic", "separate", "joint")
        base.positive(self, "critic_lr", "gamma")
        base.not_negative(self, "value_coefficient", "lam")
        for key in ("gamma", "lam"):
            if getattr(self, key) > 1:
                raise base.OutOfRange(key, getattr(self, key), "give a number of at most 1")


@dataclasses.dataclass(frozen=True, slots=True)
class PPOSettings(ClippedSettings, CriticSettings):
    """Proximal policy optimisation with a critic; the KL to the reference is part of the reward."""

    # How far from its old value a value is followed.
    value_clip: float = 0.5

    def check(self) -> None:
        ClippedSettings.check(self)
        self.check_critic()
        base.positive(self, "value_clip")


@dataclasses.dataclass(frozen=True, slots=True)
class A2CSettings(OnPolicySettings, CriticSettings):
    """Advantage actor-critic: one unclipped step on each iteration's answers."""

    def check(self) -> None:
        OnPolicySettings.check(self)
        self.check_critic()


@dataclasses.dataclass(frozen=True, slots=True)
class GroupSettings(ClippedSettings):
    """Of methods that compare the answers to one prompt with each other."""

    samples: int = 8
    prompts: int = 16
    minibatches: int = 1

    def check(self) -> None:
        ClippedSettings.check(self)
        if self.samples < 2:
            raise base.OutOfRange("samples", self.samples, "give 2 or more: an answer is compared with others")


@dataclasses.dataclass(frozen=True, slots=True)
class RLOOSettings(GroupSettings):
    """REINFORCE with the mean reward of the other answers to the same prompt as baseline."""


@dataclasses.dataclass(frozen=True, slots=True)
class GRPOSettings(GroupSettings):
    """Group relative policy optimisation. Dr. GRPO: `scale` off and `aggregation` "constant_length"."""

    # Whether a group's advantages are divided by the standard deviation of its rewards.
    scale: bool = True
