"""Feedback as a reward model trains on it, in tokens, with the books of what was left out.

Called by `trainer.reward.fitting`. A kind that could not be judged (too few examples in a split, or all of them
alike) is not trained on either, and the count of its examples says so.
"""

import collections
import dataclasses
from collections.abc import Callable, Hashable, Iterable, Sequence

import torch

from trimtab.modeling import answers, plain_text
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.reward import labels

Encoder = answers.AnswerEncoder | plain_text.PairEncoder


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """A label with its texts as tokens, in its order. weight: of its likelihood term.

    margin: of a pair, how far apart the two should be, in units of reward; 0 where no strength was given. id, rater,
    occurred_at: of the example.
    """

    label: labels.Label
    answers: tuple[answers.Answer, ...]
    weight: float = 1.0
    margin: float = 0.0
    id: str = ""
    rater: str = ""
    occurred_at: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Feedback:
    """One split; the kinds stand one after the other, in the order of `labels.KINDS`."""

    items: tuple[Item, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def of(self, kind: labels.Kind) -> list[Item]:
        return [item for item in self.items if item.label.kind == kind]

    def answers(self) -> list[answers.Answer]:
        """Every answer in it, item by item."""
        return [answer for item in self.items for answer in item.answers]


def weights_of(items: Sequence[Item]) -> torch.Tensor:
    """weights_P in float64: what the items' likelihoods count, where they are learned from and where they judge."""
    return torch.tensor([item.weight for item in items], dtype=torch.float64)


def in_order(items: Iterable[Item]) -> list[Item]:
    """The kinds one after the other; within a kind nothing moves."""
    return sorted(items, key=lambda item: labels.KINDS.index(item.label.kind))


def prepare(
    encoder: Encoder,
    examples: Sequence[datasets.DatasetExample],
    settings: recipes.RewardSettings,
    skipped: encoding.Skipped,
) -> Feedback:
    """The feedback among the examples; demonstrations are none, and signals weigh nothing
    (`trainer.reward.signals`)."""
    items: list[Item] = []
    seen: set[Hashable] = set()
    for example in examples:
        label = label_of(example)
        if label is None:
            continue
        made = encoding.unusable(example) or _identical(example, label, seen) or _encoded(encoder, example, label)
        if isinstance(made, str):
            skipped.count(made)
        else:
            margin = settings.strength_margin * (example.strength or 0.0)
            items.append(Item(label, made, example.weight, margin, example.id, example.rater, example.occurred_at))
    return Feedback(tuple(in_order(items)))


def label_of(example: datasets.DatasetExample) -> labels.Label | None:
    """What was said of which texts; None for what is no feedback."""
    match example.kind:
        case "pair" | "edit":
            return labels.Pair(example.chosen, example.rejected, example.tie, edited=example.kind == "edit")
        case "thumb":
            return labels.Thumb(example.response, example.up, example.surface, example.rater)
        case "rating":
            return labels.Rating(example.response, example.stars, example.scale)
        case "ranking":
            ranked = example.ranked
            return labels.Ranking(tuple(one["response"] for one in ranked), tuple(one["rank"] for one in ranked))
        case _:
            return None


def latest(feedback: Feedback, share: float) -> tuple[Feedback, Feedback]:
    """(earlier, latest): this share of the items by when they were given, those of unknown time first, in order."""
    by_time = sorted(range(len(feedback)), key=lambda i: feedback.items[i].occurred_at)
    late = set(by_time[len(feedback) - round(share * len(feedback)) :])
    earlier = tuple(item for i, item in enumerate(feedback.items) if i not in late)
    return Feedback(earlier), Feedback(tuple(item for i, item in enumerate(feedback.items) if i in late))


def foreseen(feedback: Feedback, by: Feedback) -> Feedback:
    """The items of kinds, scales and ties that a model which learned from `by` has seen: it gives them a chance."""
    seen = [item.label for item in by.items]
    kinds = {label.kind for label in seen}
    scales = {label.scale for label in seen if isinstance(label, labels.Rating)}
    ties, largest = any(map(_is_tie, seen)), max(map(_tied, seen), default=1)
    return Feedback(
        tuple(
            item
            for item in feedback.items
            if item.label.kind in kinds
            and (not isinstance(item.label, labels.Rating) or item.label.scale in scales)
            and (ties or not _is_tie(item.label))
            and _tied(item.label) <= largest
        )
    )


def judged_kinds(
    train: Feedback, held_out: Feedback, minimum: int, skipped: encoding.Skipped
) -> tuple[Feedback, Feedback]:
    """Both splits without what cannot be judged: fewer than `minimum` in a split for each figure of the best constant.

    That is one figure for thumbs and ties, and S - 1 for stars of scale S: a constant fitted to few would look too
    good. Rankings with a tie of more answers than the other split ever ties have no probability there.
    """
    for rules in (_rare_ties, _large_ties, _rare_kinds, _alike_kinds):
        for reason, is_unfit in rules(train, held_out, minimum):
            unfit = {id(item) for split in (train, held_out) for item in split.items if is_unfit(item.label)}
            skipped.count(reason, len(unfit))
            train, held_out = (
                Feedback(tuple(item for item in split.items if id(item) not in unfit)) for split in (train, held_out)
            )
    return train, held_out


# Reasons, each with which labels it leaves out.
_Rules = list[tuple[str, Callable[[labels.Label], bool]]]


def _rare_ties(train: Feedback, held_out: Feedback, minimum: int) -> _Rules:
    ties = [sum(_is_tie(item.label) for item in split.items) for split in (train, held_out)]
    return [(f"ties in a split of fewer than {minimum}", _is_tie)] if any(ties) and min(ties) < minimum else []


def _large_ties(train: Feedback, held_out: Feedback, minimum: int) -> _Rules:
    largest = [max((_tied(item.label) for item in split.items), default=1) for split in (train, held_out)]
    if largest[0] == largest[1]:
        return []
    return [("rankings with a tie of a size that one split lacks", lambda label: _tied(label) > min(largest))]


def _rare_kinds(train: Feedback, held_out: Feedback, minimum: int) -> _Rules:
    return [
        (f"{name} in a split of fewer than {needed}", belongs)
        for name, needed, belongs in _groups(train, held_out, minimum)
        if min(sum(belongs(item.label) for item in split.items) for split in (train, held_out)) < needed
    ]


def _alike_kinds(train: Feedback, held_out: Feedback, minimum: int) -> _Rules:
    return [
        (f"{name} all alike in a split", belongs)
        for name, _, belongs in _groups(train, held_out, minimum)
        if any(
            len({item.label.verdict for item in split.items if belongs(item.label)}) == 1 for split in (train, held_out)
        )
    ]


def _groups(train: Feedback, held_out: Feedback, minimum: int) -> list[tuple[str, int, Callable[[labels.Label], bool]]]:
    """(name, fewest of a split, membership) of everything that is judged by itself."""
    every = [item.label for split in (train, held_out) for item in split.items]
    scales = sorted({label.scale for label in every if isinstance(label, labels.Rating)})
    occurring = [kind for kind in labels.KINDS if kind != "rating" and any(label.kind == kind for label in every)]
    return [
        *((f"{kind}s", minimum, _is_of_kind(kind)) for kind in occurring),
        *((f"ratings of {scale} stars", minimum * (scale - 1), _is_of_scale(scale)) for scale in scales),
    ]


def _is_of_kind(kind: labels.Kind) -> Callable[[labels.Label], bool]:
    return lambda label: label.kind == kind


def _is_of_scale(scale: int) -> Callable[[labels.Label], bool]:
    return lambda label: isinstance(label, labels.Rating) and label.scale == scale


def _is_tie(label: labels.Label) -> bool:
    return isinstance(label, labels.Pair) and label.tie


def _tied(label: labels.Label) -> int:
    return label.largest_tie if isinstance(label, labels.Ranking) else 1


def names_by_count(names: Iterable[str], least: int = 1) -> list[str]:
    """Those that occur at least so often, by falling number, ties in alphabetical order."""
    counts = collections.Counter(names)
    return sorted((name for name in counts if counts[name] >= least), key=lambda name: (-counts[name], name))


def _identical(example: datasets.DatasetExample, label: labels.Label, seen: set[Hashable]) -> str:
    if len(label.texts) > 1 and len(set(label.texts)) == 1:
        return "identical answers"
    said = dataclasses.replace(label, surface="", rater="") if isinstance(label, labels.Thumb) else label
    identity = (said, repr(example.prompt), example.criterion, example.rater or example.id)
    if identity in seen:
        return "duplicate"
    seen.add(identity)
    return ""


def _encoded(
    encoder: Encoder, example: datasets.DatasetExample, label: labels.Label
) -> tuple[answers.Answer, ...] | str:
    """Its texts as tokens, or why one cannot be."""
    messages = encoding.messages_of(example.prompt)
    encoded: list[answers.Answer] = []
    for text in label.texts:
        answer = encoder.encode(messages, text)
        if isinstance(answer, str):
            return answer
        encoded.append(answer)
    return tuple(encoded)
