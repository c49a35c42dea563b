"""A reward model whose body stays as its parent made it: only its head learns, and the terms around the reward.

The body reads every answer once, and what the head reads of it, h, is kept. Then the head's weights w minimise

    sum of -log likelihood + -log prior of the terms + lambda / 2 |v|^2        w_d = v_d / (s_d sqrt(D))

over all feedback at once, to the end, by L-BFGS in float64: no learning rate, no epochs, nothing drawn. s_d is the
standard deviation of feature d over these answers, so that the ridge (Hoerl and Kennard 1970, Technometrics 12:55)
shrinks every feature alike. lambda is the one of RIDGES that costs least on feedback left out, in folds by prompt: two
answers to one prompt never stand on both sides. Of an ensemble each head has its draws of the examples and is drawn to
where it began instead of to 0 (Pearce et al. 2020, arXiv:1810.05546).

The head is the last linear layer; of a classification head with more layers the others stay with the body. Its bias, if
it has one, is 0 afterwards: the constant of a reward means nothing, and every kind that needs one has its own terms.

Where it pays: a pretrained body and a few thousand opinions, which a model that trains all its weights learns by heart.
Called by `trainer.reward.fitting`.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import nn

from trimtab.modeling import answers, heads, logprobs, rewards
from trimtab.trainer.reward import convex, ensembles, hub, material
from trimtab.trainer.steps import checkpoints, progress

RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0)
FOLDS = 4
_ITERATIONS = 200
# Answers that are read between two checkpoints at least.
_ANSWERS_A_STEP = 32


@dataclasses.dataclass(frozen=True, slots=True)
class Begun:
    """A reward model with a head of zeros and its terms, not fitted yet. made: new terms for the same feedback."""

    reward: rewards.LoadedReward
    terms: hub.RewardTerms
    ensemble: ensembles.Ensemble | None
    made: Callable[[], hub.RewardTerms]


def read(model: nn.Module, encoded: Sequence[answers.Answer], phase: str, report: progress.Progress) -> torch.Tensor:
    """features_B_D in float64: what the head would read of each answer. Goes on from a checkpoint."""
    kept = nn.Module()
    kept.register_buffer("features", torch.zeros(len(encoded), heads.head_of(model).in_features))
    features_B_D: torch.Tensor = kept.features  # type: ignore[assignment]  # torch types buffers as tensors or modules
    sizes = [len(one) for one in encoded]
    batches = list(logprobs.batches_by_length(sizes, logprobs.FORWARD_POSITIONS, _ANSWERS_A_STEP))
    done = report.begin(f"{phase}: reading", len(batches), checkpoints.Carried({"features": kept}, {}))
    for batch in batches[done:]:
        with torch.no_grad():
            features_B_D[batch] = heads.features_at_last(model, [encoded[i] for i in batch]).float()
        report.step({"answers": float(len(batch))})
    return features_B_D.double()


def fit(begun: Begun, features_B_D: torch.Tensor, feedback: material.Feedback) -> dict[str, float]:
    """Fits head (its bias: 0), heads and terms in place to the answers' features; the lambda chosen, and the loss."""
    every = _Problem.of(features_B_D, feedback)
    ridge = chosen_ridge(begun.made, every)
    begun.terms.double()
    if begun.ensemble is None:
        weights_D = every.fit(begun.terms, ridge)
    else:
        weights_D = every.fit_heads(begun.terms, ridge, begun.ensemble)
    loss = every.cost(begun.terms, weights_D) / sum(item.weight for item in feedback.items)
    begun.terms.float()
    with torch.no_grad():
        head = heads.head_of(begun.reward.model)
        head.weight.copy_(weights_D.unsqueeze(0))
        if head.bias is not None:
            head.bias.zero_()
    return {"loss_nats_per_example": loss, "ridge": ridge}


def chosen_ridge(made: Callable[[], hub.RewardTerms], every: "_Problem") -> float:
    """The lambda with the least cost on feedback left out, each fold in turn; the largest where there is one prompt."""
    numbers = [_fold(item) for item in every.items]
    if len(set(numbers)) < 2:
        return RIDGES[-1]
    parts = [
        (every.where([number != fold for number in numbers]), every.where([number == fold for number in numbers]))
        for fold in sorted(set(numbers))
    ]

    def cost(ridge: float) -> float:
        total = 0.0
        for inside, outside in parts:
            terms = made().double()
            total += outside.cost(terms, inside.fit(terms, ridge))
        return total

    return min(RIDGES, key=cost)


@dataclasses.dataclass(frozen=True, slots=True)
class _Problem:
    """Feedback with the features of its answers. scale_D: s_d sqrt(D)."""

    items: tuple[material.Item, ...]
    features_B_D: torch.Tensor
    scale_D: torch.Tensor

    @classmethod
    def of(cls, features_B_D: torch.Tensor, feedback: material.Feedback) -> "_Problem":
        deviations_D = features_B_D.std(dim=0, correction=0)
        scale_D = torch.where(deviations_D > 0, deviations_D, 1.0) * features_B_D.shape[1] ** 0.5
        return cls(feedback.items, features_B_D, scale_D)

    def where(self, wanted_P: Sequence[bool]) -> "_Problem":
        """Those of the items."""
        rows_B = torch.tensor([keep for item, keep in zip(self.items, wanted_P, strict=True) for _ in item.answers])
        kept = tuple(item for item, keep in zip(self.items, wanted_P, strict=True) if keep)
        return _Problem(kept, self.features_B_D[rows_B], self.scale_D)

    def fit(self, terms: hub.RewardTerms, ridge: float) -> torch.Tensor:
        """weights_D of one head, fitted together with the terms."""
        scaled_B_D = self.features_B_D / self.scale_D
        shrunk_D = torch.zeros_like(self.scale_D, requires_grad=True)

        def objective() -> torch.Tensor:
            fitted = self._loss(terms, scaled_B_D @ shrunk_D) + terms.prior_penalty()
            return fitted + ridge / 2 * shrunk_D.square().sum()

        convex.minimise([shrunk_D, *terms.parameters()], objective, _ITERATIONS)
        return shrunk_D.detach() / self.scale_D

    def fit_heads(self, terms: hub.RewardTerms, ridge: float, ensemble: ensembles.Ensemble) -> torch.Tensor:
        """weights_D of the mean head; the ensemble's deviations move in place."""
        scaled_B_D = self.features_B_D / self.scale_D
        begun_K_D = ensemble.deviations.detach().double() * self.scale_D
        shrunk_K_D = begun_K_D.clone().requires_grad_()
        shares_K_P = ensemble.shares_P_K.double().T

        def objective() -> torch.Tensor:
            losses = [
                self._loss(terms, scaled_B_D @ head_D, shares_P)
                for head_D, shares_P in zip(shrunk_K_D, shares_K_P, strict=True)
            ]
            drawn = ridge / 2 * (shrunk_K_D - begun_K_D).square().sum(dim=1)
            return (torch.stack(losses) + drawn).mean() + terms.prior_penalty()

        convex.minimise([shrunk_K_D, *terms.parameters()], objective, _ITERATIONS)
        weights_K_D = shrunk_K_D.detach() / self.scale_D
        with torch.no_grad():
            ensemble.deviations.copy_(weights_K_D - weights_K_D.mean(dim=0))
        return weights_K_D.mean(dim=0)

    @torch.no_grad()
    def cost(self, terms: hub.RewardTerms, weights_D: torch.Tensor) -> float:
        """Weighted sum of -log likelihood."""
        return self._loss(terms, self.features_B_D @ weights_D).item()

    def _loss(
        self, terms: hub.RewardTerms, scores_B: torch.Tensor, shares_P: torch.Tensor | None = None
    ) -> torch.Tensor:
        encoded = [answer for item in self.items for answer in item.answers]
        return terms.loss(terms.added_to(scores_B, encoded), self.items, shares_P)


def _fold(item: material.Item) -> int:
    """The same for every opinion about answers to one prompt."""
    return hashlib.sha256(repr(item.answers[0].prompt).encode()).digest()[0] % FOLDS
