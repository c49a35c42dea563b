"""Settings of methods that learn from what people said about answers, without a reward model."""

import dataclasses

from trimtab.trainer.recipes import base

LOSSES = ("sigmoid", "robust", "hinge", "ipo", "ipo_per_token")
_SMOOTHED = ("sigmoid", "robust")


@dataclasses.dataclass(frozen=True, slots=True)
class DirectSettings(base.PolicySettings):
    """What DPO and KTO share. Learning rates are those for all weights of a model of 1 to 8 billion."""

    # The field's for DPO and KTO is 5e-7 to 5e-6 there; a policy of half a million weights wants about 1e-3.
    lr: float = 1e-6
    warmup_steps: int = 20
    # One to three; log-ratios of trained pairs go on growing long after held-out accuracy has stopped.
    epochs: int = 1
    # Weight of the KL to the reference, per nat; small: the policy may go far.
    beta: float = 0.1

    def check(self) -> None:
        base.PolicySettings.check(self)
        base.positive(self, "epochs", "beta")


@dataclasses.dataclass(frozen=True, slots=True)
class DPOSettings(DirectSettings):
    """Direct preference optimisation and its relatives, on pairs and edits."""

    # "sigmoid" (DPO), "robust", "hinge", "ipo" (sums over tokens) or "ipo_per_token" (means over tokens).
    loss: str = "sigmoid"
    # Share of labels thought to be wrong: of "sigmoid" (then it is conservative DPO) and "robust".
    label_smoothing: float = 0.0
    # Weight of a likelihood term on the chosen answers, per token of each; 0 leaves it out.
    sft_weight: float = 0.0
    # Pairs a step.
    batch: int = 32

    def check(self) -> None:
        DirectSettings.check(self)
        base.one_of(self, "loss", *LOSSES)
        base.positive(self, "batch")
        base.not_negative(self, "sft_weight")
        if not 0 <= self.label_smoothing < 0.5:
            raise base.OutOfRange("label_smoothing", self.label_smoothing, "give 0 or more and less than 0.5")
        if self.label_smoothing and self.loss not in _SMOOTHED:
            remedy = f"give 0, or use a loss of {' or '.join(_SMOOTHED)}"
            raise base.OutOfRange("label_smoothing", self.label_smoothing, remedy)


@dataclasses.dataclass(frozen=True, slots=True)
class KTOSettings(DirectSettings):
    """Kahneman-Tversky optimisation on thumbs, and on pairs and edits taken apart."""

    # Answers a step.
    batch: int = 32
    # Loss aversion: what a desirable and an undesirable answer count.
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    # The rarer of the two counts more, so that both count the same in all.
    balance: bool = True
    # A pair's and an edit's chosen answer counts as desirable, its rejected one as undesirable.
    pairs: bool = True
    # Answers over which the reference point is averaged; 1: those of the step alone.
    kl_memory: float = 128.0

    def check(self) -> None:
        DirectSettings.check(self)
        base.positive(self, "batch", "desirable_weight", "undesirable_weight")
        if not 1 <= self.kl_memory < float("inf"):
            raise base.OutOfRange("kl_memory", self.kl_memory, "give 1 or more")
