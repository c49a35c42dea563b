"""Data sets as folders: what is written, what is read, and files of an operator's own.

    examples.jsonl   what trains or is held out, in training order, one `DatasetExample` a line
    members.jsonl    every example that was looked at: its id, its one disposition, and why
    card.json        counts, reasons and watermarks, for people and for the books

A folder is a pure function of its content: no clocks, no paths, so that the registry's content address is the data
set's identity. `trainer.data.cutting` makes one from stored feedback, the job (`trainer.job`) reads one, the command
line publishes files of demonstrations, preferences or plain text through `publish_file`. Needs no torch.
"""

import collections
import dataclasses
import hashlib
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict, cast

from trimtab import registry
from trimtab.core import errors, ids, models, text

Split = Literal["train", "held_out"]
Kind = Literal["thumb", "pair", "edit", "rating", "ranking", "signal", "demonstration", "text"]
Turn = dict[str, str]

TRAINED, HELD_OUT, REJECTED, QUARANTINED = "trained", "held out", "rejected", "quarantined"
EXAMPLES_FILE, MEMBERS_FILE, CARD_FILE = "examples.jsonl", "members.jsonl", "card.json"
# A demonstration or a document teaches form and decides nothing: only one fold is kept to measure the fit on.
_TAUGHT: frozenset[Kind] = frozenset({"demonstration", "text"})
_TAUGHT_HELD_OUT_FOLDS = frozenset({0})


class RankedText(TypedDict):
    """One answer of a ranking. rank: 1 is best, equal ranks tie."""

    response: str
    rank: int


@dataclasses.dataclass(frozen=True, slots=True)
class DatasetExample:
    """One example in the clear. What each kind fills:

        thumb, signal   response, up (of a signal: whether it is a good sign)
        rating          response, stars (1 to scale), scale
        pair            chosen, rejected, strength, tie
        edit            chosen (the corrected answer), rejected (the answer); it demonstrates `chosen` as well
        ranking         ranked, best first
        demonstration   response
        text            response (a document; its prompt is empty)

    prompt: turns {"role", "content"}, oldest first. session: hex, of the conversation; empty where there was none.
    rater: hex, the session's where the rater has no id of its own.
    strength: how much better, in (0, 1]; None when nobody was asked. weight: of its likelihood term, 1 is one vote.
    criterion: what was judged; empty where nobody said. occurred_at: when it was given, Unix seconds; 0: unknown.
    """

    id: str
    split: Split
    kind: Kind
    prompt: list[Turn]
    chosen: str = ""
    rejected: str = ""
    response: str = ""
    up: bool = False
    strength: float | None = None
    surface: str = ""
    rater: str = ""
    session: str = ""
    weight: float = 1.0
    tie: bool = False
    stars: int = 0
    scale: int = 0
    ranked: list[RankedText] = dataclasses.field(default_factory=list)
    criterion: str = ""
    occurred_at: float = 0.0

    @property
    def demonstrated(self) -> str:
        """The answer to learn to give, of a demonstration or an edit."""
        return self.chosen if self.kind == "edit" else self.response


@dataclasses.dataclass(frozen=True, slots=True)
class Dataset:
    """Examples in training order."""

    examples: list[DatasetExample]

    def of(self, split: Split, *kinds: Kind) -> list[DatasetExample]:
        """The examples of one split, of these kinds (none named: of all), in order."""
        return [one for one in self.examples if one.split == split and (not kinds or one.kind in kinds)]


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """What became of one example: "trained", "held out", or "rejected" or "quarantined" with the reason."""

    example_id: str
    disposition: str
    reason: str = ""


def read(folder: pathlib.Path) -> Dataset:
    """The examples of a data set folder. ArtifactCorrupt names the line that cannot be read."""
    return Dataset([_example(row, where) for row, where in _rows(folder / EXAMPLES_FILE, errors.ArtifactCorrupt)])


def read_members(folder: pathlib.Path) -> list[Member]:
    """What became of every example the data set was cut from."""
    try:
        return [Member(**row) for row, _ in _rows(folder / MEMBERS_FILE, errors.ArtifactCorrupt)]
    except TypeError as problem:
        raise errors.ArtifactCorrupt(f"{MEMBERS_FILE} has an unknown form: {problem}.") from problem


def write(
    folder: pathlib.Path,
    examples: Sequence[DatasetExample],
    members: Sequence[Member],
    watermarks: Mapping[str, int] | None = None,
    weighting: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Writes the folder (made if absent) and returns its card.

    watermarks: highest sequence seen, by partition. weighting: what the examples' weights follow from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_lines(folder / EXAMPLES_FILE, [dataclasses.asdict(example) for example in examples])
    _write_lines(folder / MEMBERS_FILE, [dataclasses.asdict(member) for member in members])
    card = _card(examples, members, watermarks or {}) | {"weighting": dict(weighting or {})}
    (folder / CARD_FILE).write_text(json.dumps(card, indent=1, sort_keys=True) + "\n")
    return card


def publish_file(store: registry.Registry, path: pathlib.Path, tenant: str, line: str) -> registry.Manifest:
    """Publishes an operator's JSONL file as a data set; the same file gives the same data set.

    Demonstrations: {"messages": [...]} whose last turn is the assistant's, or {"prompt", "response"}.
    Preferences: {"prompt", "chosen", "rejected"}. A prompt is a string (one user turn) or a list of turns.
    Plain text, for pretraining: {"text"}, a document a line.
    InvalidField names the line that is wrong.
    """
    examples = [_operator_example(row, where) for row, where in _rows(path, _invalid_line)]
    if not examples:
        raise errors.InvalidField(str(path), "holds no example", "put one JSON object on each line")
    unique = {example.id: example for example in examples}
    kept = list(unique.values())
    members = [Member(one.id, HELD_OUT if one.split == "held_out" else TRAINED) for one in kept]
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        card = write(folder, kept, members)
        return store.publish(
            folder,
            registry.ManifestDraft(
                kind=models.ModelKind.DATASET, tenant=tenant, line=line, method="file", settings={"card": card}
            ),
        )


def _card(
    examples: Sequence[DatasetExample], members: Sequence[Member], watermarks: Mapping[str, int]
) -> dict[str, Any]:
    by_kind = collections.Counter(f"{example.kind}/{example.split}" for example in examples)
    reasons = collections.Counter((member.disposition, member.reason) for member in members)
    rejected, quarantined = (
        {reason: count for (disposition, reason), count in sorted(reasons.items()) if disposition == wanted}
        for wanted in (REJECTED, QUARANTINED)
    )
    dispositions = collections.Counter(member.disposition for member in members)
    return {
        "members": len(members),
        "dispositions": {name: dispositions[name] for name in (TRAINED, HELD_OUT, REJECTED, QUARANTINED)},
        "by_kind": dict(sorted(by_kind.items())),
        "rejected_by_reason": rejected,
        "quarantined_by_reason": quarantined,
        "watermarks": dict(watermarks),
    }


def _write_lines(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w") as lines:
        lines.writelines(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)


def _rows(path: pathlib.Path, broken: Callable[[str], errors.TrimtabError]) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects of a JSONL file, each with its place in words; empty lines are skipped."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                where = f"{path.name} line {number}"
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise broken(f"{where} is not a JSON object.")
                yield row, where
    except (OSError, ValueError) as problem:
        raise broken(f"{path.name} cannot be read as JSON lines: {problem}.") from problem


def _invalid_line(sentence: str) -> errors.InvalidField:
    return errors.InvalidField("file", sentence.rstrip("."), "put one JSON object on each line")


def _example(row: dict[str, Any], where: str) -> DatasetExample:
    try:
        return DatasetExample(**row)
    except TypeError as problem:
        raise errors.ArtifactCorrupt(f"{where} is no example of a data set: {problem}.") from problem


def _operator_example(row: dict[str, Any], where: str) -> DatasetExample:
    keys = set(row)
    if keys == {"messages"}:
        *prompt, last = _turns(row["messages"], f"{where}: messages")
        if last["role"] != text.Role.ASSISTANT or not prompt:
            raise errors.InvalidField(
                f"{where}: messages", "does not end with an answer", "end it with the assistant's turn"
            )
        return _placed(kind="demonstration", prompt=prompt, response=_said(last, "content", where))
    if keys == {"text"}:
        return _placed(kind="text", prompt=[], response=_said(row, "text", where))
    prompt = _prompt(row.get("prompt"), f"{where}: prompt")
    if keys == {"prompt", "response"}:
        return _placed(kind="demonstration", prompt=prompt, response=_said(row, "response", where))
    if keys == {"prompt", "chosen", "rejected"}:
        chosen, rejected = _said(row, "chosen", where), _said(row, "rejected", where)
        if chosen == rejected:
            raise errors.InvalidField(f"{where}: rejected", "is the same text as `chosen`", "leave the line out")
        return _placed(kind="pair", prompt=prompt, chosen=chosen, rejected=rejected)
    raise errors.InvalidField(
        where,
        f"has the keys {', '.join(sorted(keys))}",
        "give `messages`, or `prompt` and `response`, or `prompt`, `chosen` and `rejected`, or `text`",
    )


def _placed(kind: Kind, prompt: list[Turn], **texts: str) -> DatasetExample:
    """The example with its id (hash of its content) and its split (fold of its prompt's hash, a document's own)."""
    asked = prompt or texts["response"]
    prompt_hash = hashlib.sha256(json.dumps(asked, ensure_ascii=False).encode()).digest()[:16]
    content = json.dumps({"kind": kind, "prompt": prompt, **texts}, ensure_ascii=False, sort_keys=True)
    held_out = _TAUGHT_HELD_OUT_FOLDS if kind in _TAUGHT else ids.HELD_OUT_FOLDS
    return DatasetExample(
        id=hashlib.sha256(content.encode()).hexdigest()[:32],
        split="held_out" if ids.fold_of(prompt_hash) in held_out else "train",
        kind=kind,
        prompt=prompt,
        **texts,  # type: ignore[arg-type]  # only the text fields are passed
    )


def _prompt(value: Any, where: str) -> list[Turn]:
    if isinstance(value, str):
        return _turns([{"role": "user", "content": value}], where)
    return _turns(value, where)


def _turns(value: Any, where: str) -> list[Turn]:
    roles = {role.value for role in text.Role}
    good = (
        isinstance(value, list)
        and value
        and all(
            isinstance(turn, dict)
            and set(turn) == {"role", "content"}
            and turn["role"] in roles
            and isinstance(turn["content"], str)
            and turn["content"].strip()
            for turn in value
        )
    )
    if not good:
        raise errors.InvalidField(
            where, "is not a list of turns", 'give [{"role": "user", "content": "..."}, ...] with text in each'
        )
    return [{"role": turn["role"], "content": turn["content"]} for turn in cast(list[Turn], value)]


def _said(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row[key]
    if not isinstance(value, str) or not value.strip():
        raise errors.InvalidField(f"{where}: {key}", "is not text", "give a string that is not empty")
    return value
