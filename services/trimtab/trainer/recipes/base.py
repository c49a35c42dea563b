"""What every training method has to set, and how a setting is refused."""

import dataclasses


class OutOfRange(ValueError):
    def __init__(self, key: str, value: object, remedy: str) -> None:
        super().__init__(f"{key} is {value!r}; {remedy}")
        self.key, self.what, self.remedy = key, f"is {value!r}", remedy


def positive(settings: object, *keys: str) -> None:
    for key in keys:
        if not 0 < getattr(settings, key) < float("inf"):
            raise OutOfRange(key, getattr(settings, key), "give a number above 0")


def not_negative(settings: object, *keys: str) -> None:
    for key in keys:
        if not 0 <= getattr(settings, key) < float("inf"):
            raise OutOfRange(key, getattr(settings, key), "give 0 or more")


def one_of(settings: object, key: str, *known: str) -> None:
    if getattr(settings, key) not in known:
        raise OutOfRange(key, getattr(settings, key), f"use one of {', '.join(known)}")


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
    # Input positions of one forward pass that keeps its activations; 0: as many as a core's cache holds of the model's
    # widest layer. Results do not depend on it, memory and speed do: past the cache a step takes a third longer.
    micro_batch_positions: int = 0
    # "bfloat16": matrix products round to it, half the time on a CPU with avx512_bf16.
    precision: str = "float32"
    # Rank of low-rank adapters (LoRA), which are trained in place of the weights and merged into them at the end; 0:
    # all weights are trained. Adapters want about ten times the learning rate.
    lora_rank: int = 0
    # What the adapters add is multiplied by lora_alpha / lora_rank.
    lora_alpha: int = 16
    # In SFT, pretraining and reward models alone: what compares log-probabilities of two models has no dropout.
    lora_dropout: float = 0.0
    # Linear layers that get adapters, by the endings of their names, with commas between; empty: all of the body.
    lora_targets: str = ""

    def check(self) -> None:
        """OutOfRange names the first setting that makes no sense."""
        one_of(self, "optimizer", "adamw", "muon")
        one_of(self, "schedule", "cosine", "linear")
        one_of(self, "precision", "float32", "bfloat16")
        positive(self, "lr", "matrix_lr", "max_grad_norm", "threads")
        not_negative(self, "warmup_steps", "weight_decay", "micro_batch_positions", "lora_rank")
        positive(self, "lora_alpha")
        if not 0 <= self.lora_dropout < 1:
            raise OutOfRange("lora_dropout", self.lora_dropout, "give 0 or more and less than 1")


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
        positive(self, "evaluation_prompts", "evaluation_minimum", "evaluation_max_tokens")
