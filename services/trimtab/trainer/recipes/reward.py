"""Settings of reward models."""

import dataclasses

from trimtab.trainer.recipes import base


@dataclasses.dataclass(frozen=True, slots=True)
class RewardSettings(base.RunSettings):
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
        base.RunSettings.check(self)
        base.positive(self, "epochs", "batch", "terms_lr", "surface_deviation", "rater_deviation", "minimum_examples")
        base.not_negative(self, "strength_margin")
        if not 0.5 < self.agreement <= 1:
            raise base.OutOfRange("agreement", self.agreement, "give a number above 0.5 and at most 1")
