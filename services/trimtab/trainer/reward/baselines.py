"""What a reward model must beat: the best constant, and bags of words under the likelihood of the same kind.

Printed on every reward model's card, also for imported human preferences, always on the reward model's own split.
Deterministic: the problem is convex, starts at zero and is solved by L-BFGS in float64. The reward of a text is w times
log(1 + count) of each word that occurs in at least two training texts; no length, no prompt. How much w is decayed is
chosen on the training texts alone, so that the line is as good as such a line can be: a weak line would flatter the
model. Labels of one kind at a time; the terms around the reward are those of the reward hub (`trainer.reward.terms`).
Labels weigh here what they weigh for the model, where it learns and where it is judged; 1 each where no weights are
given.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch

from trimtab.trainer.reward import convex, labels, terms

_WORD = re.compile(r"\w+|[^\w\s]")
_VOCABULARY = 20_000
_DECAYS = (1.0, 3.0, 10.0, 30.0)
_FOLDS = 3
_Label = TypeVar("_Label", bound=labels.Label)


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """How a predictor does on unseen labels: nats per label, share predicted right (ties count half), both weighted.

    accuracy: None for a kind that knows no right and wrong. nll_P: the nats of each label, where they differ.
    """

    nll: float
    accuracy: float | None
    nll_P: tuple[float, ...] = ()


# The best constant for decided pairs: which of two answers is named first means nothing.
COIN = Line(nll=math.log(2), accuracy=0.5)


def best_constant(said: Sequence[labels.Label], weights: Sequence[float] | None = None) -> Line:
    """The predictor that knows no text and fits these very labels best."""
    weights = _weights(said, weights)
    match said[0]:
        case labels.Pair():
            return _constant_of_pairs(_only(labels.Pair, said), weights)
        case labels.Thumb():
            return _shares([thumb.up for thumb in _only(labels.Thumb, said)], weights)
        case labels.Rating():
            return _constant_of_ratings(_only(labels.Rating, said), weights)
        case labels.Ranking():
            return _constant_of_rankings(_only(labels.Ranking, said), weights)


def bag_of_words(
    seen: Sequence[labels.Label],
    unseen: Sequence[labels.Label],
    seen_weights: Sequence[float] | None = None,
    unseen_weights: Sequence[float] | None = None,
) -> Line:
    """The line of rewards that are linear in words, fitted to `seen`."""
    words = _Words([text for label in seen for text in label.texts])
    problem = _Problem(words, seen, _weights(seen, seen_weights))
    test = _Problem(words, unseen, _weights(unseen, unseen_weights))
    folds = [problem.fold(number) for number in range(_FOLDS)]
    cost = {
        decay: sum(float((inside.weights_P * outside.fitted(decay).nll(inside)).sum()) for outside, inside in folds)
        for decay in _DECAYS
    }
    return problem.fitted(min(_DECAYS, key=cost.__getitem__)).line(test)


def _weights(said: Sequence[labels.Label], given: Sequence[float] | None) -> Sequence[float]:
    return [1.0] * len(said) if given is None else given


def _shares(verdicts: Sequence[Any], weights: Sequence[float]) -> Line:
    """Each verdict as probable as its share of the weight."""
    of: dict[Any, float] = collections.defaultdict(float)
    for verdict, weight in zip(verdicts, weights, strict=True):
        of[verdict] += weight
    shares = [weight / math.fsum(weights) for weight in of.values()]
    return Line(nll=-math.fsum(share * math.log(share) for share in shares), accuracy=max(shares))


def _constant_of_pairs(pairs: Sequence[labels.Pair], weights: Sequence[float]) -> Line:
    """Ties as frequent as they are, and a coin for the others."""
    decided = math.fsum(weight for pair, weight in zip(pairs, weights, strict=True) if not pair.tie)
    nll = _shares([pair.tie for pair in pairs], weights).nll + decided / math.fsum(weights) * COIN.nll
    return Line(nll=nll, accuracy=COIN.accuracy)


def _constant_of_ratings(ratings: Sequence[labels.Rating], weights: Sequence[float]) -> Line:
    """Each level of a scale as frequent as it is."""
    total = 0.0
    for scale in sorted({one.scale for one in ratings}):
        weighed = [(one.stars, weight) for one, weight in zip(ratings, weights, strict=True) if one.scale == scale]
        stars, of_scale = zip(*weighed, strict=True)
        total += _shares(stars, of_scale).nll * math.fsum(of_scale)
    return Line(total / math.fsum(weights), accuracy=None)


def _constant_of_rankings(rankings: Sequence[labels.Ranking], weights: Sequence[float]) -> Line:
    """All answers alike, ties of each size as probable as fits best."""
    model = terms.RankingTerms(rankings).double()
    alike_B = torch.zeros(sum(len(label.texts) for label in rankings), dtype=torch.float64)
    shares_P = torch.tensor(weights, dtype=torch.float64) / math.fsum(weights)

    def objective() -> torch.Tensor:
        return (shares_P * model.nll(alike_B, rankings)).sum()

    convex.minimise(model.parameters(), objective)
    with torch.no_grad():
        return Line(nll=float(objective()), accuracy=0.5)


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
    """Labels with their weights and the words of their texts as sparse rows (text, word, value).

    whole: the labels that say which terms there are; a fold may lack a scale or a tie that the others have.
    """

    def __init__(
        self,
        words: _Words,
        said: Sequence[labels.Label],
        weights: Sequence[float],
        whole: Sequence[labels.Label] | None = None,
    ) -> None:
        self._words = words
        self.said = said
        self.weights_P = torch.tensor(weights, dtype=torch.float64)
        self._whole = said if whole is None else whole
        features = [words.features(text) for label in said for text in label.texts]
        entries = [(row, word, value) for row, one in enumerate(features) for word, value in one.items()]
        self._texts = len(features)
        self._text_of = torch.tensor([row for row, _, _ in entries], dtype=torch.long)
        self._word_of = torch.tensor([word for _, word, _ in entries], dtype=torch.long)
        self._value_of = torch.tensor([value for _, _, value in entries], dtype=torch.float64)

    def fold(self, number: int) -> tuple["_Problem", ...]:
        """All labels but every third one, and those."""
        places = range(len(self.said))
        parts = ([place for place in places if place % _FOLDS != number], places[number::_FOLDS])
        return tuple(
            _Problem(self._words, [self.said[i] for i in part], self.weights_P[list(part)].tolist(), self.said)
            for part in parts
        )

    def rewards(self, weights: torch.Tensor) -> torch.Tensor:
        """rewards_B: w . features of every text."""
        values = self._value_of * weights.index_select(0, self._word_of)
        return torch.zeros(self._texts, dtype=torch.float64).index_add(0, self._text_of, values)

    def fitted(self, decay: float) -> "_Fitted":
        """The terms and weights that minimise weighted sum of nll + prior of the terms + decay / 2 |w|^2."""
        made = _Fitted(_terms_of(self._whole).double(), torch.zeros(len(self._words), dtype=torch.float64))
        made.weights.requires_grad_()

        def objective() -> torch.Tensor:
            cost = (self.weights_P * made.terms.nll(self.rewards(made.weights), self.said)).sum()
            return cost + made.terms.penalty() + 0.5 * decay * made.weights.square().sum()

        convex.minimise([made.weights, *made.terms.parameters()], objective)
        return made


@dataclasses.dataclass(frozen=True, slots=True)
class _Fitted:
    terms: terms.Terms[Any]
    weights: torch.Tensor

    @torch.no_grad()
    def nll(self, problem: _Problem) -> torch.Tensor:
        """nll_P of the problem's labels; none for no labels."""
        if not problem.said:
            return torch.zeros(0)
        return self.terms.nll(problem.rewards(self.weights), problem.said)

    @torch.no_grad()
    def line(self, problem: _Problem) -> Line:
        nll_P = self.nll(problem)
        shares_P = problem.weights_P / problem.weights_P.sum()
        accuracy = self.terms.accuracy(problem.rewards(self.weights), problem.said, problem.weights_P)
        return Line(nll=float((shares_P * nll_P).sum()), accuracy=accuracy, nll_P=tuple(nll_P.tolist()))


def _terms_of(said: Sequence[labels.Label]) -> terms.Terms[Any]:
    """The terms of the labels' kind, with nothing known of surfaces and raters and every slope 1."""
    match said[0]:
        case labels.Pair():
            return terms.PairTerms(_only(labels.Pair, said))
        case labels.Thumb():
            return terms.ThumbTerms()
        case labels.Rating():
            return terms.RatingTerms(_only(labels.Rating, said))
        case labels.Ranking():
            return terms.RankingTerms(_only(labels.Ranking, said))


def _only(kind: type[_Label], said: Iterable[labels.Label]) -> list[_Label]:
    return [label for label in said if isinstance(label, kind)]


def _split(text: str) -> list[str]:
    return _WORD.findall(text.lower())
