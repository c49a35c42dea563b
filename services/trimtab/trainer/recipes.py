"""Settings of each training method, with defaults that suit a policy of half a million weights on one core.

A run's spec carries what differs from them as a flat JSON object (`settings_json`): the service refuses a bad one
before the run is queued, the job parses the same text again, the published manifest holds the resolved values.
Standard library only: the service imports this. Larger models want learning rates of a tenth to a hundredth of these.
"""

import dataclasses
import json
from typing import Any, TypeVar

from trimtab.core import errors, runs


@dataclasses.dataclass(frozen=True, slots=True)
class RunSettings:
    """What every method has."""

    # "adamw" for every weight, or "muon" for the matrices between embedding and head and AdamW for the rest.
    optimizer: str = "adamw"
    # Highest learning rate of AdamW.
    lr: float = 1e-3
    # Highest learning rate of Muon, where it is used.
    matrix_lr: float = 0.01
    # "cosine" or "linear": how learning rates fall, to nothing after the last step.
    schedule: str = "cosine"
    # Steps in which learning rates rise to their highest.
    warmup_steps: int = 0
    # Decoupled weight decay of the matrices.
    weight_decay: float = 0.0
    # Largest norm of the gradient; longer ones are shortened to it.
    max_grad_norm: float = 1.0
    # Threads of torch. One per process: two with both cores busy took ten times as long.
    threads: int = 1
    # Input positions of one forward pass that keeps its activations. Results do not depend on it, memory and speed
    # do: on a core whose cache they fit into, 512 take two thirds of the time of 8192.
    micro_batch_positions: int = 512

    def check(self) -> None:
        """_OutOfRange names the first setting that makes no sense."""
        _one_of(self, "optimizer", "adamw", "muon")
        _one_of(self, "schedule", "cosine", "linear")
        _positive(self, "lr", "matrix_lr", "max_grad_norm", "threads", "micro_batch_positions")
        _not_negative(self, "warmup_steps", "weight_decay")


@dataclasses.dataclass(frozen=True, slots=True)
class PolicySettings(RunSettings):
    """What every method that makes a policy has: how the policy is judged. Thresholds are the line's (`GateConfig`)."""

    # Held-out prompts that candidate and reference answer.
    evaluation_prompts: int = 128
    # Fewer answers scored than this measure nothing, and the gate says so.
    evaluation_minimum: int = 16
    # Longest answer in the evaluation, in tokens; the serving profile may say less.
    evaluation_max_tokens: int = 256

    def check(self) -> None:
        RunSettings.check(self)
        _positive(self, "evaluation_prompts", "evaluation_minimum", "evaluation_max_tokens")


@dataclasses.dataclass(frozen=True, slots=True)
class SFTSettings(PolicySettings):
    """Supervised fine-tuning on demonstrations."""

    optimizer: str = "muon"
    lr: float = 6e-3
    matrix_lr: float = 6e-3
    warmup_steps: int = 20
    epochs: int = 5
    # Demonstrations a step.
    batch: int = 24

    def check(self) -> None:
        PolicySettings.check(self)
        _positive(self, "epochs", "batch")


@dataclasses.dataclass(frozen=True, slots=True)
class RewardSettings(RunSettings):
    """A reward model from every kind of feedback, and the evaluation reward model from the held-out."""

    lr: float = 5e-4
    warmup_steps: int = 10
    weight_decay: float = 0.01
    # Two or three: at six the loss on unseen pairs was above that of a coin.
    epochs: int = 3
    # Examples a step.
    batch: int = 16
    # Learning rate of the terms around the reward: slope, intercepts, weight of the surprise.
    terms_lr: float = 0.02
    # Margin of a pair of strength 1, in units of reward; other strengths in proportion.
    strength_margin: float = 1.0
    # Probability that a comparison says what its rater meant; below 1 it softens the label.
    agreement: float = 1.0
    # Standard deviations of the surfaces' and the raters' intercepts (priors).
    surface_deviation: float = 0.5
    rater_deviation: float = 0.5
    # Off: the input embeddings stay those of the parent, which leaves less to learn by heart from a thousand examples.
    train_embeddings: bool = True
    # Adds one feature: the least log-probability of a token of the answer under the frozen parent, its weight learned.
    surprise: bool = False
    # A kind with fewer examples than this, in either split, could not be judged and is left out; stars of scale S need
    # S - 1 times as many.
    minimum_examples: int = 16

    def check(self) -> None:
        RunSettings.check(self)
        _positive(self, "epochs", "batch", "terms_lr", "surface_deviation", "rater_deviation", "minimum_examples")
        _not_negative(self, "strength_margin")
        if not 0.5 < self.agreement <= 1:
            raise _OutOfRange("agreement", self.agreement, "give a number above 0.5 and at most 1")


@dataclasses.dataclass(frozen=True, slots=True)
class PPOSettings(PolicySettings):
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
        PolicySettings.check(self)
        _positive(self, "iterations", "prompts", "samples", "max_tokens", "epochs", "minibatches", "critic_lr")
        _positive(self, "kl_horizon", "clip", "value_clip", "dual_clip", "gamma", "demonstrations")
        _not_negative(self, "beta", "kl_target", "lam", "demonstration_weight")


Settings = SFTSettings | RewardSettings | PPOSettings
_BY_KIND: dict[runs.RunKind, type[SFTSettings] | type[RewardSettings] | type[PPOSettings]] = {
    runs.RunKind.SFT: SFTSettings,
    runs.RunKind.REWARD: RewardSettings,
    runs.RunKind.PPO: PPOSettings,
}


def parse(kind: runs.RunKind, settings_json: str) -> Settings:
    """The settings of a method. InvalidField names the key that is wrong; NotBuiltYet names a method to come."""
    if kind not in _BY_KIND:
        raise errors.NotBuiltYet(f"Training by {kind.value}")
    try:
        table = json.loads(settings_json or "{}")
    except ValueError as problem:
        raise errors.InvalidField("settings_json", f"is no JSON ({problem})", "send an object of settings") from problem
    if not isinstance(table, dict):
        raise errors.InvalidField("settings_json", f"is {table!r}", "send an object of settings")
    defaults = _BY_KIND[kind]()
    known = sorted(field.name for field in dataclasses.fields(defaults))
    for key, value in table.items():
        if key not in known:
            raise errors.InvalidField(f"settings_json.{key}", "is not a setting", f"use one of {', '.join(known)}")
        table[key] = _typed(getattr(defaults, key), value, key)
    settings = dataclasses.replace(defaults, **table)
    try:
        settings.check()
    except _OutOfRange as problem:
        raise errors.InvalidField(f"settings_json.{problem.key}", problem.what, problem.remedy) from None
    return settings


T = TypeVar("T", str, int, float, bool)


def _typed(default: T, value: Any, key: str) -> T:
    wanted = type(default)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return wanted(value)
    if type(value) is not wanted:
        raise errors.InvalidField(f"settings_json.{key}", f"is {value!r}", f"give a value of type {wanted.__name__}")
    return value


class _OutOfRange(ValueError):
    def __init__(self, key: str, value: object, remedy: str) -> None:
        super().__init__(f"{key} is {value!r}; {remedy}")
        self.key, self.what, self.remedy = key, f"is {value!r}", remedy


def _positive(settings: object, *keys: str) -> None:
    for key in keys:
        if not 0 < getattr(settings, key) < float("inf"):
            raise _OutOfRange(key, getattr(settings, key), "give a number above 0")


def _not_negative(settings: object, *keys: str) -> None:
    for key in keys:
        if not 0 <= getattr(settings, key) < float("inf"):
            raise _OutOfRange(key, getattr(settings, key), "give 0 or more")


def _one_of(settings: object, key: str, *known: str) -> None:
    if getattr(settings, key) not in known:
        raise _OutOfRange(key, getattr(settings, key), f"use one of {', '.join(known)}")
