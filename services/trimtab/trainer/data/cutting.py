"""Cuts a data set from stored examples: which train, which are held out, which are rejected or quarantined and why.

Called by `trainer.runs.triggers` with the examples of one line from `trainer.data.store`. A pure function: the result
does not depend on the order in which the examples arrived. Every example id gets exactly one disposition, withdrawn
ones included, so that the books balance. The folder form is `trainer.data.datasets`.
"""

import dataclasses
import hashlib
import json
import types
from collections.abc import Iterable, Mapping

from trimtab.core import examples, feedback, ids, lines, text
from trimtab.trainer.data import datasets, weights

PER_RATER_LIMIT = 200
_UNWEIGHTED = lines.WeightConfig(reliability_overlap=0, rater_share=1.0)
_GOOD_SIGNS = frozenset({feedback.SignalKind.COPY, feedback.SignalKind.ACCEPT})
_TRAINS_REWARD = (
    examples.ThumbExample,
    examples.PairExample,
    examples.RatingExample,
    examples.RankingExample,
    examples.EditExample,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """watermarks: the highest sequence looked at, by partition of the ledger's outbox. weighting: its figures, by
    split."""

    examples: list[datasets.DatasetExample]
    members: list[datasets.Member]
    watermarks: dict[str, int]
    weighting: dict[str, float] = dataclasses.field(default_factory=dict)


def cut(
    stored: Iterable[examples.Example],
    per_rater: int = PER_RATER_LIMIT,
    quarantined: Mapping[str, str] = types.MappingProxyType({}),
    weighting: lines.WeightConfig = _UNWEIGHTED,
) -> Cut:
    """The data set of these examples, all of one line.

    per_rater: at most so many examples of one rater are used. quarantined: why, by the ids of those left out.
    weighting: how much those count that are used (`trainer.data.weights`).
    """
    everything = list(stored)
    current = heads(everything)
    selection = _Selection(per_rater, quarantined)
    for example in current:
        selection.judge(example)
    figures = selection.weigh({example.id: example.propensity for example in current}, weighting)
    return Cut(selection.examples, selection.members, _watermarks(everything), figures)


def heads(stored: Iterable[examples.Example]) -> list[examples.Example]:
    """The latest revision of every example id, in (partition, sequence) order."""
    latest: dict[str, examples.Example] = {}
    for example in stored:
        known = latest.get(example.id)
        if known is None or _age(example) > _age(known):
            latest[example.id] = example
    return sorted(latest.values(), key=lambda example: (example.partition, example.sequence))


def is_trainable(example: examples.Example) -> bool:
    """Whether it can count towards a trigger: it stands, and a reward model learns from its kind."""
    return not example.withdrawn and isinstance(example.kind, _TRAINS_REWARD)


def _age(example: examples.Example) -> tuple[int, int]:
    return example.revision, example.sequence


def _watermarks(stored: Iterable[examples.Example]) -> dict[str, int]:
    marks: dict[int, int] = {}
    for example in stored:
        marks[example.partition] = max(example.sequence, marks.get(example.partition, 0))
    return {str(partition): marks[partition] for partition in sorted(marks)}


class _Selection:
    """Judges examples in order; what was seen before decides about duplicates and a rater's share."""

    def __init__(self, per_rater: int, quarantined: Mapping[str, str]) -> None:
        self.examples: list[datasets.DatasetExample] = []
        self.members: list[datasets.Member] = []
        self._per_rater = per_rater
        self._quarantined = quarantined
        self._seen: set[bytes] = set()
        self._of_rater: dict[str, int] = {}

    def judge(self, example: examples.Example) -> None:
        reason = _unusable(example)
        if reason:
            self._reject(example, reason)
            return
        row = _row(example)
        identity = _identity(row)
        if identity in self._seen:
            self._reject(example, "duplicate: this rater said the same of the same texts")
        elif example.id in self._quarantined:
            # seen all the same: what repeats it stays out as well
            self._seen.add(identity)
            self.members.append(datasets.Member(example.id, datasets.QUARANTINED, self._quarantined[example.id]))
        elif row.weight and self._of_rater.get(row.rater, 0) >= self._per_rater:
            self._reject(example, f"rater limit: {self._per_rater} examples of one rater are used")
        else:
            self._seen.add(identity)
            self._of_rater[row.rater] = self._of_rater.get(row.rater, 0) + (row.weight > 0)
            self.examples.append(row)
            disposition = datasets.HELD_OUT if row.split == "held_out" else datasets.TRAINED
            self.members.append(datasets.Member(example.id, disposition))

    def weigh(self, propensities: Mapping[str, float], config: lines.WeightConfig) -> dict[str, float]:
        """Gives each example its weight, rejects those that cannot be weighed; the figures.

        Split by split: what is held out decides nothing, so not what it teaches of a rater either.
        """
        found: dict[str, float] = {}
        refused: dict[str, str] = {}
        figures: dict[str, float] = {}
        splits: tuple[datasets.Split, ...] = ("train", "held_out")
        for split in splits:
            weighed = weights.weigh([row for row in self.examples if row.split == split], propensities, config)
            found |= weighed.weights
            refused |= weighed.refused
            figures |= {f"{split}_{name}": value for name, value in weighed.figures.items()}
        self.examples = [
            dataclasses.replace(row, weight=found.get(row.id, row.weight))
            for row in self.examples
            if row.id not in refused
        ]
        self.members = [
            datasets.Member(one.example_id, datasets.REJECTED, refused[one.example_id])
            if one.example_id in refused
            else one
            for one in self.members
        ]
        return figures

    def _reject(self, example: examples.Example, reason: str) -> None:
        self.members.append(datasets.Member(example.id, datasets.REJECTED, reason))


def _unusable(example: examples.Example) -> str:
    """Why it cannot train by itself, or nothing."""
    if example.withdrawn or example.kind is None:
        return "withdrawn"
    if isinstance(example.kind, examples.CritiqueExample):
        return "critique: weighs nothing, a comment has no direction"
    if isinstance(example.kind, examples.SignalExample) and not _is_held_out(example):
        return "signal: weighs nothing until its slope is shown to be above 0; held-out ones measure it"
    if not example.context.store:
        return "no consent to keep the text"
    answers = [answer.body for answer in _answers(example)]
    bodies = [message.content.body for message in example.prompt] + answers
    if any(isinstance(body, text.Ciphertext) for body in bodies):
        return "sealed text"
    if not example.prompt or any(not str(body).strip() for body in bodies):
        return "empty text"
    if len(answers) > 1 and len(set(answers)) == 1:
        is_edit = isinstance(example.kind, examples.EditExample)
        return "edit that changes nothing" if is_edit else "identical answers"
    return ""


def _is_held_out(example: examples.Example) -> bool:
    return example.fold in ids.HELD_OUT_FOLDS


def _answers(example: examples.Example) -> tuple[text.Text, ...]:
    match example.kind:
        case examples.PairExample(chosen=chosen, rejected=rejected):
            return chosen, rejected
        case examples.EditExample(original=original, corrected=corrected):
            return original, corrected
        case examples.RankingExample(items=items):
            return tuple(item.response for item in items)
        case None:
            return ()
        case kind:
            return (kind.response,)


def _row(example: examples.Example) -> datasets.DatasetExample:
    prompt = [{"role": message.role.value, "content": message.content.read()} for message in example.prompt]
    common = datasets.DatasetExample(
        id=example.id,
        split="held_out" if _is_held_out(example) else "train",
        kind="thumb",
        prompt=prompt,
        surface=example.surface,
        rater=example.rater.id or example.context.session_hash.hex(),
        session=example.context.session_hash.hex(),
        criterion=example.criterion,
        occurred_at=example.occurred_at.timestamp(),
    )
    match example.kind:
        case examples.ThumbExample(response=response, up=up):
            return dataclasses.replace(common, response=response.read(), up=up)
        case examples.SignalExample(response=response, signal=signal):
            good = signal in _GOOD_SIGNS
            return dataclasses.replace(common, kind="signal", response=response.read(), up=good, weight=0.0)
        case examples.RatingExample(response=response, stars=stars, scale=scale):
            return dataclasses.replace(common, kind="rating", response=response.read(), stars=stars, scale=scale)
        case examples.PairExample(chosen=chosen, rejected=rejected, strength=strength, tie=tie):
            return dataclasses.replace(
                common, kind="pair", chosen=chosen.read(), rejected=rejected.read(), strength=strength, tie=tie
            )
        case examples.EditExample(original=original, corrected=corrected):
            return dataclasses.replace(common, kind="edit", chosen=corrected.read(), rejected=original.read())
        case examples.RankingExample(items=items):
            best_first = sorted(items, key=lambda item: item.rank)
            ranked = [datasets.RankedText(response=item.response.read(), rank=item.rank) for item in best_first]
            return dataclasses.replace(common, kind="ranking", ranked=ranked)
        case examples.DemonstrationExample(response=response):
            return dataclasses.replace(common, kind="demonstration", response=response.read())
        case _:
            raise TypeError(f"a {type(example.kind).__name__} was not sorted out")


def _identity(row: datasets.DatasetExample) -> bytes:
    """What the rater said of which texts: all but where it comes from."""
    said = dataclasses.replace(row, id="", split="train", surface="", session="", strength=None, occurred_at=0.0)
    return hashlib.sha256(json.dumps(dataclasses.asdict(said)).encode()).digest()
