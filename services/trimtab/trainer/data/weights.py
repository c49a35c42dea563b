"""What each example of a data set weighs: how reliable its rater is, and how rarely its answer was shown.

Pure functions over the rows of one split; `trainer.data.cutting` applies them, the figures go onto the data set's card.

**Reliability.** Where several raters said something of the same answers, who errs can be told without knowing the
truth: Dawid and Skene 1979 (JRSS C 28:20), by expectation maximisation from the majority's vote. An item has two
classes: the thumb up or down, or which of two answers was preferred. A rater's weight is Youden's J = P(1|1) + P(0|0) -
1, by how much a vote moves with the truth: 1 for who never errs, 0 for a coin; with noise of one size the best linear
weights are in proportion to it. Items whose truth is known (gold) are votes of trusted raters and hold the truth fixed.

**Exposure.** An answer that was shown with probability p counts min(1 / p, cap) times (Horvitz and Thompson 1952, JASA
47:663; the cap is the truncation of Ionides 2008): as often as if it had always been shown, at a stated most.

**A rater's share.** Of all weight of a kind in a split, after reliability and exposure, one rater holds at most `s`:

    W'_r = min(W_r, T)    T = s sum_q W'_q    s = max(rater_share, 2 / raters)        W_r: the sum of rater r's weights

and each of his examples is scaled by W'_r / W_r. Where there are few raters an even share is larger than `rater_share`,
so twice an even one is left to everybody. Raters of gold items are what the owner calls the truth: not scaled.
"""

import collections
import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from statistics import fmean, median

from trimtab.core import lines, statistics
from trimtab.trainer.data import datasets

# Pseudo-counts of a rater's confusion matrix: five votes of one who is right in four of five cases.
_RIGHT, _WRONG = 4.0, 1.0
_ROUNDS, _SETTLED = 200, 1e-12
# Who has too few votes of his own to be told from others.
OTHERS = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Vote:
    """What one rater said of one item: True is class 1."""

    item: Hashable
    rater: str
    says: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Rater:
    """sensitivity: P(says 1 | truth 1); specificity: P(says 0 | truth 0)."""

    sensitivity: float
    specificity: float

    @property
    def reliability(self) -> float:
        """Youden's J, from -1 to 1."""
        return self.sensitivity + self.specificity - 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Weighed:
    """weights: by example id, of each kind 1 on average. refused: why, by the ids of those that cannot be weighed."""

    weights: dict[str, float]
    figures: dict[str, float]
    refused: dict[str, str]


def weigh(
    rows: Sequence[datasets.DatasetExample], propensities: Mapping[str, float], config: lines.WeightConfig
) -> Weighed:
    """The weights of one split's feedback. propensities: of the answer's exposure, by example id (absent: 1)."""
    weights: dict[str, float] = {}
    figures: dict[str, float] = {}
    refused: dict[str, str] = {}
    weighty = [row for row in rows if row.weight > 0]
    if config.propensity_cap > 1:
        unknown = [row.id for row in weighty if not 0 < propensities.get(row.id, 1.0) <= 1]
        refused |= dict.fromkeys(unknown, "propensity that is no probability")
        weighty = [row for row in weighty if row.id not in refused]
    for kind in sorted({row.kind for row in weighty}):
        of_kind = [row for row in weighty if row.kind == kind]
        known = reliabilities(of_kind, config)
        factors = {row.id: _reliability(row, known) * _exposure(row, propensities, config) for row in of_kind}
        unreliable = [name for name, factor in factors.items() if not factor]
        refused |= dict.fromkeys(unreliable, "unreliable: on shared answers its rater errs like a coin")
        shared, capped = _capped(of_kind, factors, config)
        weights |= _averaging_one(shared)
        judged = sorted(max(0.0, one.reliability) for name, one in known.items() if name != OTHERS)
        if judged:
            figures |= {
                f"{kind}_raters_judged": float(len(judged)),
                f"{kind}_reliability_least": judged[0],
                f"{kind}_reliability_median": median(judged),
            }
        if capped:
            figures[f"{kind}_raters_capped"] = float(capped)
        if len(set(shared.values())) > 1:
            figures[f"{kind}_effective_examples"] = statistics.effective_number(list(shared.values()))
    return Weighed({name: weight for name, weight in weights.items() if weight}, figures, refused)


def reliabilities(rows: Sequence[datasets.DatasetExample], config: lines.WeightConfig) -> dict[str, Rater]:
    """Of each rater with `reliability_overlap` votes on shared items, and of `OTHERS` together; empty where nobody has.

    rows: of one kind. Thumbs and decided pairs can be shared; which of two answers is class 1 follows from their texts.
    """
    if not config.reliability_overlap:
        return {}
    votes = [vote for row in rows if (vote := _vote(row)) is not None]
    raters_of: dict[Hashable, set[str]] = collections.defaultdict(set)
    for vote in votes:
        raters_of[vote.item].add(vote.rater)
    shared = [vote for vote in votes if len(raters_of[vote.item]) > 1]
    own = collections.Counter(vote.rater for vote in shared)
    judged = {rater for rater, count in own.items() if rater and count >= config.reliability_overlap}
    if not judged:
        return {}
    gold = {vote.item: float(vote.says) for vote in shared if vote.rater in config.gold_raters}
    pooled = [dataclasses.replace(vote, rater=vote.rater if vote.rater in judged else OTHERS) for vote in shared]
    return dawid_skene(pooled, gold).raters


@dataclasses.dataclass(frozen=True, slots=True)
class Fitted:
    """truths: P(class 1) of each item; prior: of class 1 before any vote."""

    raters: dict[str, Rater]
    truths: dict[Hashable, float]
    prior: float


def dawid_skene(votes: Sequence[Vote], gold: Mapping[Hashable, float] | None = None) -> Fitted:
    """Raters and truths that explain the votes best, from the majority's vote on; gold: truths that are known."""
    known = gold or {}
    by_item: dict[Hashable, list[Vote]] = collections.defaultdict(list)
    for vote in votes:
        by_item[vote.item].append(vote)
    truths = {item: fmean(vote.says for vote in of) for item, of in by_item.items()} | dict(known)
    raters, prior = _maximised(votes, truths)
    for _ in range(_ROUNDS):
        found = {
            item: known.get(item, posterior([(raters[vote.rater], vote.says) for vote in of], prior))
            for item, of in by_item.items()
        }
        moved = max((abs(found[item] - truths[item]) for item in found), default=0.0)
        truths = found
        raters, prior = _maximised(votes, truths)
        if moved < _SETTLED:
            break
    return Fitted(raters, truths, prior)


def posterior(said: Sequence[tuple[Rater, bool]], prior: float = 0.5) -> float:
    """P(truth is 1) after these votes."""
    one, nought = math.log(prior), math.log1p(-prior)
    for rater, says in said:
        one += math.log(rater.sensitivity if says else 1 - rater.sensitivity)
        nought += math.log(1 - rater.specificity if says else rater.specificity)
    return 1 / (1 + math.exp(nought - one)) if nought - one < 700 else 0.0


def inverse_propensity(propensity: float, cap: float) -> float:
    """min(1 / p, cap); ValueError for what is no probability."""
    if not 0 < propensity <= 1:
        raise ValueError(f"a propensity of {propensity} cannot have been drawn")
    return min(1 / propensity, cap)


def inverse_propensity_mean(values: Sequence[float], propensities: Sequence[float], cap: float = math.inf) -> float:
    """The mean of what would have been seen had all been shown, by self-normalised weights (Hájek 1971)."""
    weights = [inverse_propensity(propensity, cap) for propensity in propensities]
    return math.fsum(w * value for w, value in zip(weights, values, strict=True)) / math.fsum(weights)


def _maximised(votes: Sequence[Vote], truths: Mapping[Hashable, float]) -> tuple[dict[str, Rater], float]:
    """Raters and prior that fit truths best, under the pseudo-counts."""
    right_ones: dict[str, float] = collections.defaultdict(lambda: _RIGHT)
    right_noughts: dict[str, float] = collections.defaultdict(lambda: _RIGHT)
    ones: dict[str, float] = collections.defaultdict(lambda: _RIGHT + _WRONG)
    noughts: dict[str, float] = collections.defaultdict(lambda: _RIGHT + _WRONG)
    for vote in votes:
        truth = truths[vote.item]
        ones[vote.rater] += truth
        noughts[vote.rater] += 1 - truth
        right_ones[vote.rater] += truth * vote.says
        right_noughts[vote.rater] += (1 - truth) * (not vote.says)
    raters = {name: Rater(right_ones[name] / ones[name], right_noughts[name] / noughts[name]) for name in sorted(ones)}
    prior = (math.fsum(truths.values()) + 1) / (len(truths) + 2)
    return raters, prior


def _vote(row: datasets.DatasetExample) -> Vote | None:
    """What is comparable with what others said of the same texts; None for what is not."""
    asked = (row.criterion, repr(row.prompt))
    if row.kind == "thumb":
        return Vote((*asked, row.response), row.rater, row.up)
    if row.kind == "pair" and not row.tie:
        first, second = sorted((row.chosen, row.rejected))
        return Vote((*asked, first, second), row.rater, row.chosen == first)
    return None


def _reliability(row: datasets.DatasetExample, known: Mapping[str, Rater]) -> float:
    """J of its rater, of all others together, or of the average of those who are known; 1 where nobody is."""
    if not known:
        return 1.0
    average = fmean(one.reliability for one in known.values())
    found = known.get(row.rater) or known.get(OTHERS)
    return max(0.0, average if found is None else found.reliability)


def _exposure(row: datasets.DatasetExample, propensities: Mapping[str, float], config: lines.WeightConfig) -> float:
    if config.propensity_cap == 1:
        return 1.0
    return inverse_propensity(propensities.get(row.id, 1.0), config.propensity_cap)


def _capped(
    rows: Sequence[datasets.DatasetExample], factors: Mapping[str, float], config: lines.WeightConfig
) -> tuple[dict[str, float], int]:
    """The factors with no rater above its share of their sum, and how many raters that scaled."""
    totals: dict[str, float] = collections.defaultdict(float)
    for row in rows:
        totals[_owner(row)] += factors[row.id]
    sums = {rater: total for rater, total in totals.items() if total}
    most = _most(sums, config)
    capped = {rater for rater, total in sums.items() if total > most and rater not in config.gold_raters}
    scales = {rater: most / sums[rater] for rater in capped}
    return {row.id: factors[row.id] * scales.get(_owner(row), 1.0) for row in rows}, len(capped)


def _most(sums: Mapping[str, float], config: lines.WeightConfig) -> float:
    """T: with the k largest raters scaled to it T = s (the others' sum + k T), for the least k that leaves none above.

    sums: W_r, none 0. Infinite where nobody is above.
    """
    share = max(config.rater_share, 2 / len(sums)) if sums else 1.0
    largest = sorted((total for rater, total in sums.items() if rater not in config.gold_raters), reverse=True)
    others = math.fsum(sums.values())
    for number, total in enumerate(largest):
        if number * share >= 1:
            break
        most = share * others / (1 - number * share)
        if total <= most * (1 + 1e-9):
            return most if number else math.inf
        others -= total
    return math.inf


def _owner(row: datasets.DatasetExample) -> str:
    """Whose share an example is of: who gave no name gave this one alone."""
    return row.rater or row.id


def _averaging_one(factors: Mapping[str, float]) -> dict[str, float]:
    mean = math.fsum(factors.values()) / len(factors)
    return {name: factor / mean if mean else 0.0 for name, factor in factors.items()}
