"""What is measured: equal batches, steps and settings for both sides. Standard library only, both sides read it."""

import dataclasses
import pathlib

LR, CLIP = 1e-4, 1.0
THREADS = 1
# On-policy: answers to a prompt, longest answer, passes of PPO over an iteration's answers (TRL's default).
SAMPLES, MAX_TOKENS, PPO_EPOCHS = 4, 64, 4
BETA = 0.05
# A real chat model: adapters of this rank, in bfloat16, in steps of fewer examples.
PRETRAINED, RANK = "SmolLM2-135M", 16


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """batch: examples a step, on-policy: answers a step. warm_up, measured: passes over the data, on-policy: steps.

    peer: which environment holds the other side. target: how many times its speed is asked for, of TRL as it comes and
    of TRL tuned.
    """

    batch: int
    warm_up: int
    measured: int
    target: tuple[float, float]
    peer: str = "trl"

    def steps_of_a_pass(self, rows: int) -> int:
        return -(-rows // self.batch)


def of(size: str, method: str) -> Plan:
    """Fewer answers an iteration where a model is larger, else a measurement takes hours."""
    planned = PLANS[method]
    if size == PRETRAINED:
        return dataclasses.replace(planned, batch=planned.batch // 4, measured=1)
    return planned


def turns_of(size: str, asked: int) -> int:
    """Fewer where a model is larger, as above."""
    return max(1, int(asked * 0.4)) if size == PRETRAINED else asked


def methods_of(size: str) -> list[str]:
    """TRL's PPO gives adapters to the policy alone and trains all of the critic: nothing to compare there."""
    return [method for method in PLANS if size != PRETRAINED or method != "ppo"]


def size_of(folder: pathlib.Path) -> str:
    return folder.name.rpartition("-")[0]


PLANS = {
    "sft": Plan(24, 1, 2, (2.0, 1.3)),
    "reward": Plan(16, 1, 2, (2.5, 1.3)),
    "dpo": Plan(16, 1, 2, (3.0, 1.3)),
    "kto": Plan(16, 1, 2, (2.0, 1.3)),
    "ppo": Plan(64, 1, 3, (3.0, 3.0), "trl-with-ppo"),
    "rloo": Plan(64, 1, 3, (2.0, 2.0)),
    "grpo": Plan(64, 1, 3, (2.0, 2.0)),
}
