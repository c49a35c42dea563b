"""What a reward model must beat: the best constant, and logistic regression on bags of words.

Printed on every reward model's card, also for imported human preferences, always on the reward model's own split.
Deterministic: the problem is convex, starts at zero and is solved by L-BFGS in float64. Features are log(1 + count) of
each word that occurs in at least two training texts; no length, no prompt. How much the weights are decayed is chosen
on the training texts alone, so that the line is as good as such a line can be: a weak line would flatter the model.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Sequence

import torch
from torch.nn import functional

_WORD = re.compile(r"\w+|[^\w\s]")
_VOCABULARY = 20_000
_ITERATIONS = 50
_DECAYS = (1.0, 3.0, 10.0, 30.0)
_FOLDS = 3


@dataclasses.dataclass(frozen=True, slots=True)
class LabelledPair:
    """The text of two answers to one prompt."""

    chosen: str
    rejected: str


@dataclasses.dataclass(frozen=True, slots=True)
class LabelledThumb:
    """The text of an answer, and its thumb."""

    response: str
    up: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """How a predictor does on unseen examples: nats per example, share predicted right (ties count half).

    nll_P: the nats of each example, where they differ.
    """

    nll: float
    accuracy: float
    nll_P: tuple[float, ...] = ()


# The best constant for pairs: which of two answers is named first means nothing.
COIN = Line(nll=math.log(2), accuracy=0.5)


def best_constant(thumbs: Sequence[LabelledThumb]) -> Line:
    """The constant probability that fits these very thumbs best: their share of ups."""
    share = sum(thumb.up for thumb in thumbs) / len(thumbs)
    entropy = -sum(p * math.log(p) for p in (share, 1 - share) if p)
    return Line(nll=entropy, accuracy=max(share, 1 - share))


def bag_of_words_pairs(train: Sequence[LabelledPair], test: Sequence[LabelledPair]) -> Line:
    """Bradley-Terry with r = w . features: logistic regression on feature differences, without intercept."""
    words = _Words([text for pair in train for text in (pair.chosen, pair.rejected)])
    return _line(*(_Problem.of_pairs(words, pairs) for pairs in (train, test)))


def bag_of_words_thumbs(train: Sequence[LabelledThumb], test: Sequence[LabelledThumb]) -> Line:
    """Logistic regression of thumbs, with an intercept that is not decayed."""
    words = _Words([thumb.response for thumb in train])
    return _line(*(_Problem.of_thumbs(words, thumbs) for thumbs in (train, test)))


class _Words:
    """The vocabulary: the most frequent words, ties in alphabetical order."""

    def __init__(self, texts: Sequence[str]) -> None:
        frequency = collections.Counter(word for text in texts for word in set(_split(text)))
        frequent = sorted((word for word, count in frequency.items() if count > 1), key=lambda w: (-frequency[w], w))
        self._number = {word: number for number, word in enumerate(frequent[:_VOCABULARY])}

    def __len__(self) -> int:
        return len(self._number)

    def features(self, text: str) -> dict[int, float]:
        counts = collections.Counter(self._number[word] for word in _split(text) if word in self._number)
        return {number: math.log1p(count) for number, count in counts.items()}


class _Problem:
    """Logistic regression: sparse rows (row, feature, value), and signs_P, +1 for yes and -1 for no.

    `width` features; the last one is the intercept if there is one, and `decayed` features lie before it.
    """

    def __init__(self, rows: Sequence[dict[int, float]], signs: Sequence[float], width: int, decayed: int) -> None:
        self.width, self.decayed = width, decayed
        self._rows = rows
        self.signs_P = torch.tensor(list(signs), dtype=torch.float64)
        entries = [(row, feature, value) for row, one in enumerate(rows) for feature, value in one.items()]
        self._row_of = torch.tensor([row for row, _, _ in entries], dtype=torch.long)
        self._feature_of = torch.tensor([feature for _, feature, _ in entries], dtype=torch.long)
        self._value_of = torch.tensor([value for _, _, value in entries], dtype=torch.float64)

    @classmethod
    def of_pairs(cls, words: _Words, pairs: Sequence[LabelledPair]) -> "_Problem":
        rows = []
        for pair in pairs:
            row = collections.defaultdict(float, words.features(pair.chosen))
            for feature, value in words.features(pair.rejected).items():
                row[feature] -= value
            rows.append(dict(row))
        return cls(rows, [1.0] * len(pairs), len(words), len(words))

    @classmethod
    def of_thumbs(cls, words: _Words, thumbs: Sequence[LabelledThumb]) -> "_Problem":
        rows = [words.features(thumb.response) | {len(words): 1.0} for thumb in thumbs]
        return cls(rows, [1.0 if thumb.up else -1.0 for thumb in thumbs], len(words) + 1, len(words))

    def fold(self, number: int) -> tuple["_Problem", "_Problem"]:
        """All rows but every third one, and those."""
        inside = [i for i in range(len(self._rows)) if i % _FOLDS == number]
        outside = [i for i in range(len(self._rows)) if i % _FOLDS != number]
        return self._subset(outside), self._subset(inside)

    def _subset(self, chosen: Sequence[int]) -> "_Problem":
        signs = self.signs_P[chosen].tolist()
        return _Problem([self._rows[i] for i in chosen], signs, self.width, self.decayed)

    def logits(self, weights: torch.Tensor) -> torch.Tensor:
        products = self._value_of * weights[self._feature_of]
        return torch.bincount(self._row_of, weights=products, minlength=len(self._rows))

    def nll(self, weights: torch.Tensor) -> torch.Tensor:
        """-log sigma(sign logit) of each row."""
        return -functional.logsigmoid(self.signs_P * self.logits(weights))

    def fitted(self, decay: float) -> torch.Tensor:
        """The weights that minimise sum of nll + decay / 2 |w|^2."""
        weights = torch.zeros(self.width, dtype=torch.float64)
        weights.grad = torch.zeros_like(weights)
        solver = torch.optim.LBFGS([weights], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")
        decays = torch.full_like(weights, decay)
        decays[self.decayed :] = 0.0

        def objective() -> torch.Tensor:
            margins_P = self.signs_P * self.logits(weights)
            slopes_P = -self.signs_P * torch.sigmoid(-margins_P)
            by_entry = self._value_of * slopes_P[self._row_of]
            gradient = torch.bincount(self._feature_of, weights=by_entry, minlength=self.width)
            weights.grad = gradient + decays * weights
            return -functional.logsigmoid(margins_P).sum() + 0.5 * (decays * weights.square()).sum()

        with torch.no_grad():
            solver.step(objective)  # type: ignore[no-untyped-call]
        return weights


def _line(train: _Problem, test: _Problem) -> Line:
    if not train.width:
        return COIN
    folds = [train.fold(number) for number in range(_FOLDS)]
    unseen = {
        decay: sum(inside.nll(outside.fitted(decay)).sum().item() for outside, inside in folds) for decay in _DECAYS
    }
    weights = train.fitted(min(_DECAYS, key=unseen.__getitem__))
    logits_P = test.signs_P * test.logits(weights)
    right_P = (logits_P > 0).double() + 0.5 * (logits_P == 0).double()
    nll_P = test.nll(weights)
    return Line(nll=nll_P.mean().item(), accuracy=right_P.mean().item(), nll_P=tuple(nll_P.tolist()))


def _split(text: str) -> list[str]:
    return _WORD.findall(text.lower())
