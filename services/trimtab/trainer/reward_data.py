"""Feedback as a reward model trains on it: pairs and thumbs in tokens, with the books of what was left out.

Called by `trainer.reward_model`. A kind that could not be judged (too few examples in a split, thumbs all alike) is not
trained on either, and the count of its examples says so.
"""

import collections
import dataclasses
from collections.abc import Hashable, Sequence

from trimtab.modeling import answers
from trimtab.trainer import baselines, datasets, encoding, recipes


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """margin: how far apart the two should be, in units of reward; 0 where no strength was given."""

    chosen: answers.Answer
    rejected: answers.Answer
    margin: float
    weight: float
    words: baselines.LabelledPair


@dataclasses.dataclass(frozen=True, slots=True)
class Thumb:
    answer: answers.Answer
    up: bool
    surface: str
    weight: float
    words: baselines.LabelledThumb


@dataclasses.dataclass(frozen=True, slots=True)
class Feedback:
    """One split."""

    pairs: tuple[Pair, ...] = ()
    thumbs: tuple[Thumb, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs) + len(self.thumbs)

    def answers(self) -> list[answers.Answer]:
        """Every answer in it: chosen and rejected of each pair in turn, then the thumbs'."""
        of_pairs = [answer for pair in self.pairs for answer in (pair.chosen, pair.rejected)]
        return of_pairs + [thumb.answer for thumb in self.thumbs]


def prepare(
    encoder: answers.AnswerEncoder,
    examples: Sequence[datasets.DatasetExample],
    settings: recipes.RewardSettings,
    skipped: encoding.Skipped,
) -> Feedback:
    """The pairs and thumbs among the examples, in order; demonstrations are not feedback and are passed over."""
    pairs: list[Pair] = []
    thumbs: list[Thumb] = []
    seen: set[Hashable] = set()
    for example in examples:
        if example.kind == "demonstration":
            continue
        made = encoding.unusable(example) or _identical(example, seen) or _made(encoder, example, settings)
        match made:
            case str(reason):
                skipped.count(reason)
            case Pair():
                pairs.append(made)
            case Thumb():
                thumbs.append(made)
    return Feedback(tuple(pairs), tuple(thumbs))


def judged_kinds(
    train: Feedback, held_out: Feedback, minimum: int, skipped: encoding.Skipped
) -> tuple[Feedback, Feedback]:
    """Both splits without the kinds that cannot be judged."""
    both = (train, held_out)
    if min(len(split.pairs) for split in both) < minimum:
        skipped.count(f"pairs in a split of fewer than {minimum}", sum(len(split.pairs) for split in both))
        both = tuple(dataclasses.replace(split, pairs=()) for split in both)  # type: ignore[assignment]
    thumbs = sum(len(split.thumbs) for split in both)
    if min(len(split.thumbs) for split in both) < minimum:
        skipped.count(f"thumbs in a split of fewer than {minimum}", thumbs)
        both = tuple(dataclasses.replace(split, thumbs=()) for split in both)  # type: ignore[assignment]
    elif any(len({thumb.up for thumb in split.thumbs}) == 1 for split in both):
        skipped.count("thumbs all up or all down in a split", thumbs)
        both = tuple(dataclasses.replace(split, thumbs=()) for split in both)  # type: ignore[assignment]
    return both


def surfaces_of(feedback: Feedback) -> list[str]:
    """Surfaces by falling number of thumbs, ties in alphabetical order."""
    counts = collections.Counter(thumb.surface for thumb in feedback.thumbs)
    return sorted(counts, key=lambda surface: (-counts[surface], surface))


def _identical(example: datasets.DatasetExample, seen: set[Hashable]) -> str:
    if example.kind == "pair" and example.chosen == example.rejected:
        return "identical answers"
    said = (example.kind, repr(example.prompt), example.chosen, example.rejected, example.response, example.up)
    identity = (*said, example.rater or example.id)
    if identity in seen:
        return "duplicate"
    seen.add(identity)
    return ""


def _made(
    encoder: answers.AnswerEncoder, example: datasets.DatasetExample, settings: recipes.RewardSettings
) -> Pair | Thumb | str:
    messages = encoding.messages_of(example.prompt)
    if example.kind == "thumb":
        answer = encoder.encode(messages, example.response)
        if isinstance(answer, str):
            return answer
        words = baselines.LabelledThumb(example.response, example.up)
        return Thumb(answer, example.up, example.surface, example.weight, words)
    chosen, rejected = encoder.encode(messages, example.chosen), encoder.encode(messages, example.rejected)
    if isinstance(chosen, str):
        return chosen
    if isinstance(rejected, str):
        return rejected
    margin = settings.strength_margin * (example.strength or 0.0)
    return Pair(chosen, rejected, margin, example.weight, baselines.LabelledPair(example.chosen, example.rejected))
