"""Settings of methods that imitate texts. Learning rates are those for all weights of a model of 1 to 8 billion."""

import dataclasses

from trimtab.trainer.recipes import base


@dataclasses.dataclass(frozen=True, slots=True)
class SFTSettings(base.PolicySettings):
    """Supervised fine-tuning on demonstrations and edits."""

    # The field's from 1 billion weights on; a policy of half a million wants about 6e-3, with "muon".
    lr: float = 2e-5
    warmup_steps: int = 20
    # Three, as Alpaca and InstructGPT's successors train; more learns the demonstrations by heart.
    epochs: int = 3
    # Demonstrations a step.
    batch: int = 32

    def check(self) -> None:
        base.PolicySettings.check(self)
        base.positive(self, "epochs", "batch")


@dataclasses.dataclass(frozen=True, slots=True)
class PretrainSettings(base.RunSettings):
    """Continued pretraining on plain text."""

    # Continued, so well below what a model is pretrained with; from random weights half a million want about 6e-3.
    lr: float = 2e-5
    warmup_steps: int = 20
    weight_decay: float = 0.1
    epochs: int = 1
    # Tokens that a block predicts; the model's context may hold less.
    block_tokens: int = 1024
    # Blocks a step.
    batch: int = 32

    def check(self) -> None:
        base.RunSettings.check(self)
        base.positive(self, "epochs", "block_tokens", "batch")
