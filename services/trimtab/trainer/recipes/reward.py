"""Settings of reward models."""

import dataclasses
import math

from trimtab.trainer.recipes import base


@dataclasses.dataclass(frozen=True, slots=True)
class RewardSettings(base.RunSettings):
    """A reward model from every kind of feedback, and the evaluation reward model from the held-out."""

    # The field's for all weights of 1 to 8 billion; a model of half a million weights wants about 1e-3.
    lr: float = 1e-5
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
    # Off: the body stays as its parent made it and the head alone is fitted, at once, with a ridge chosen by cross-
    # validation; `lr`, `epochs` and what else is about steps play no part. For a pretrained parent and a few thousand
    # examples, which a model that trains all its weights learns by heart.
    train_body: bool = True
    # The parent's first layers that the reward model keeps; 0: all of them. Middle layers often know more of how good
    # an answer is than the last, which are about the next word, and the model is smaller.
    body_layers: int = 0
    # Adds one feature: the least log-probability of a token of the answer under the frozen parent, its weight learned.
    surprise: bool = False
    # A kind with fewer examples than this, in either split, could not be judged and is left out; stars of scale S need
    # S - 1 times as many.
    minimum_examples: int = 16
    # Nats per example by which it may be worse than the incumbent: refused when it is shown to be worse by more.
    incumbent_margin: float = 0.01
    # Heads of the ensemble on one body; 1: none. Four or five tell where the examples say little.
    heads: int = 1
    # A score is the heads' mean less so many of their standard deviations. Not of the model that judges.
    pessimism: float = 0.0
    # Share of the training split, its latest, that is kept from training and only measures calibration; 0: none.
    recent_share: float = 0.0
    # One model for each criterion, combined as a weighted sum of standardised rewards: "helpful:1, tone:0.5". An empty
    # name is feedback that names none. Empty: one model of all feedback, whatever was judged.
    criteria: str = ""
    # The criterion that no other may outweigh, beside those above or one of them. Where its model's reward is below the
    # threshold, the answer scores below every safe one.
    safety: str = ""
    safety_threshold: float = 0.0

    def check(self) -> None:
        base.RunSettings.check(self)
        base.positive(self, "epochs", "batch", "terms_lr", "surface_deviation", "rater_deviation", "minimum_examples")
        base.not_negative(self, "strength_margin", "pessimism", "body_layers", "incumbent_margin")
        if not 0.5 < self.agreement <= 1:
            raise base.OutOfRange("agreement", self.agreement, "give a number above 0.5 and at most 1")
        if self.heads != 1 and not 3 <= self.heads <= 64:
            raise base.OutOfRange("heads", self.heads, "give 1 for none, or 3 to 64")
        if self.pessimism and self.heads == 1:
            raise base.OutOfRange("pessimism", self.pessimism, "give `heads` as well, or 0")
        if not 0 <= self.recent_share <= 0.5:
            raise base.OutOfRange("recent_share", self.recent_share, "give a number from 0 to 0.5")
        if not self.train_body and self.lora_rank:
            raise base.OutOfRange("lora_rank", self.lora_rank, "give 0, or train the body")
        if not self.train_body and self.precision != "float32":
            raise base.OutOfRange("precision", self.precision, "leave it out, or train the body")
        if not math.isfinite(self.safety_threshold):
            raise base.OutOfRange("safety_threshold", self.safety_threshold, "give a number")
        if self.safety and not self.criteria:
            raise base.OutOfRange("safety", self.safety, "give `criteria` as well")
        self.weights_of_criteria()

    def weights_of_criteria(self) -> dict[str, float]:
        """The weight of each criterion that has a model of its own, in order; empty: one model of everything."""
        weights: dict[str, float] = {}
        for part in self.criteria.split(",") if self.criteria else ():
            name, _, weight = part.strip().rpartition(":")
            try:
                value = float(weight)
            except ValueError:
                value = math.nan
            weights[name.strip()] = math.nan if name.strip() in weights else value
        if not all(math.isfinite(weight) for weight in weights.values()) or (weights and not any(weights.values())):
            raise base.OutOfRange("criteria", self.criteria, 'give names with weights, as in "helpful:1, tone:0.5"')
        return weights | ({self.safety: 0.0} if self.safety and self.safety not in weights else {})
