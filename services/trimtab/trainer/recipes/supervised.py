"""Settings of methods that imitate texts."""

import dataclasses

from trimtab.trainer.recipes import base


@dataclasses.dataclass(frozen=True, slots=True)
class SFTSettings(base.PolicySettings):
    """Supervised fine-tuning on demonstrations."""

    optimizer: str = "muon"
    lr: float = 6e-3
    matrix_lr: float = 6e-3
    warmup_steps: int = 20
    epochs: int = 5
    # Demonstrations a step.
    batch: int = 24

    def check(self) -> None:
        base.PolicySettings.check(self)
        base.positive(self, "epochs", "batch")
