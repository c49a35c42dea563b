"""Cuts a data set from stored examples: which train, which are held out, which are rejected and why.

Called by `trainer.triggers` with the examples of one line from `trainer.store`. A pure function: the result does not
depend on the order in which the examples arrived. Every example id gets exactly one disposition, withdrawn ones
included, so that the books balance. The folder form is `trainer.datasets`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable

from trimtab.core import examples, ids, text
from trimtab.trainer import datasets

PER_RATER_LIMIT = 200
_NOT_TRAINED_YET: dict[type, str] = {
    examples.RatingExample: "rating: not trained yet",
    examples.RankingExample: "ranking: not trained yet",
    examples.EditExample: "edit: not trained yet",
    examples.DemonstrationExample: "demonstration: not trained from feedback yet",
    examples.CritiqueExample: "critique: not trained yet",
    examples.SignalExample: "signal: not trained yet",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """watermarks: the highest sequence looked at, by partition of the ledger's outbox."""

    examples: list[datasets.DatasetExample]
    members: list[datasets.Member]
    watermarks: dict[str, int]


def cut(stored: Iterable[examples.Example], per_rater: int = PER_RATER_LIMIT) -> Cut:
    """The data set of these examples, all of one line. per_rater: at most so many examples of one rater are used."""
    everything = list(stored)
    selection = _Selection(per_rater)
    for example in heads(everything):
        selection.judge(example)
    return Cut(examples=selection.examples, members=selection.members, watermarks=_watermarks(everything))


def heads(stored: Iterable[examples.Example]) -> list[examples.Example]:
    """The latest revision of every example id, in (partition, sequence) order."""
    latest: dict[str, examples.Example] = {}
    for example in stored:
        known = latest.get(example.id)
        if known is None or _age(example) > _age(known):
            latest[example.id] = example
    return sorted(latest.values(), key=lambda example: (example.partition, example.sequence))


def is_trainable(example: examples.Example) -> bool:
    """Whether it can count towards a trigger: a thumb or a decided pair that stands."""
    match example.kind:
        case examples.ThumbExample():
            return not example.withdrawn
        case examples.PairExample(tie=tie):
            return not example.withdrawn and not tie
        case _:
            return False


def _age(example: examples.Example) -> tuple[int, int]:
    return example.revision, example.sequence


def _watermarks(stored: Iterable[examples.Example]) -> dict[str, int]:
    marks: dict[int, int] = {}
    for example in stored:
        marks[example.partition] = max(example.sequence, marks.get(example.partition, 0))
    return {str(partition): marks[partition] for partition in sorted(marks)}


class _Selection:
    """Judges examples in order; what was seen before decides about duplicates and a rater's share."""

    def __init__(self, per_rater: int) -> None:
        self.examples: list[datasets.DatasetExample] = []
        self.members: list[datasets.Member] = []
        self._per_rater = per_rater
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
        elif self._of_rater.get(row.rater, 0) >= self._per_rater:
            self._reject(example, f"rater limit: {self._per_rater} examples of one rater are used")
        else:
            self._seen.add(identity)
            self._of_rater[row.rater] = self._of_rater.get(row.rater, 0) + 1
            self.examples.append(row)
            disposition = datasets.HELD_OUT if row.split == "held_out" else datasets.TRAINED
            self.members.append(datasets.Member(example.id, disposition))

    def _reject(self, example: examples.Example, reason: str) -> None:
        self.members.append(datasets.Member(example.id, datasets.REJECTED, reason))


def _unusable(example: examples.Example) -> str:
    """Why it cannot train by itself, or nothing."""
    if example.withdrawn or example.kind is None:
        return "withdrawn"
    if type(example.kind) in _NOT_TRAINED_YET:
        return _NOT_TRAINED_YET[type(example.kind)]
    if not example.context.store:
        return "no consent to keep the text"
    bodies = [message.content.body for message in example.prompt] + [answer.body for answer in _answers(example)]
    if any(isinstance(body, text.Ciphertext) for body in bodies):
        return "sealed text"
    if not example.prompt or any(not str(body).strip() for body in bodies):
        return "empty text"
    if isinstance(example.kind, examples.PairExample):
        if example.kind.tie:
            return "tie: not trained yet"
        if example.kind.chosen == example.kind.rejected:
            return "identical answers"
    return ""


def _answers(example: examples.Example) -> tuple[text.Text, ...]:
    match example.kind:
        case examples.ThumbExample(response=response):
            return (response,)
        case examples.PairExample(chosen=chosen, rejected=rejected):
            return chosen, rejected
        case _:
            return ()


def _row(example: examples.Example) -> datasets.DatasetExample:
    prompt = [{"role": message.role.value, "content": message.content.read()} for message in example.prompt]
    common = datasets.DatasetExample(
        id=example.id,
        split="held_out" if example.fold in ids.HELD_OUT_FOLDS else "train",
        kind="thumb",
        prompt=prompt,
        surface=example.surface,
        rater=example.rater.id or example.context.session_hash.hex(),
    )
    match example.kind:
        case examples.ThumbExample(response=response, up=up):
            return dataclasses.replace(common, response=response.read(), up=up)
        case examples.PairExample(chosen=chosen, rejected=rejected, strength=strength):
            return dataclasses.replace(
                common, kind="pair", chosen=chosen.read(), rejected=rejected.read(), strength=strength
            )
        case _:
            raise TypeError(f"a {type(example.kind).__name__} was not sorted out")


def _identity(row: datasets.DatasetExample) -> bytes:
    said = [row.kind, row.prompt, row.chosen, row.rejected, row.response, row.up, row.rater]
    return hashlib.sha256(json.dumps(said).encode()).digest()
