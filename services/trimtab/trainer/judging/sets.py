"""Prompt sets and preference sets that people bring: JSON lines, read whole or refused by line. Needs no torch.

Read by `trimtab eval`. Those that a line names in its configuration (`[lines.NAME.evaluation.SET]`) are published by
`trainer.runs.worker`, so that a run depends on their content, and read again by its job.
"""

import dataclasses
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import Any, TypeVar

from trimtab import registry
from trimtab.core import errors, lines, models, text

_ROLES = {role.value for role in text.Role}
# Of the published form: its file, and what `trimtab models list` calls how it was made.
SET_FILE, METHOD = "set.jsonl", "evaluation set"
_NAMED = 5
_TURNS = 'give text, or a list of {"role", "content"} turns that ends with the user\'s'
_Read = TypeVar("_Read")


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    """line: its number in the file. turns: oldest first, the last one the user's."""

    line: int
    turns: tuple[text.Message, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Preference:
    line: int
    turns: tuple[text.Message, ...]
    chosen: str
    rejected: str


class _Bad(Exception):
    """A line that cannot be used. problem, remedy: clauses without a full stop."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


def read_prompts(file: pathlib.Path) -> list[Prompt]:
    """Of {"prompt": text or turns} or {"messages": turns} a line. InvalidField names every line that is neither."""
    return _read(file, _prompt)


def read_preferences(file: pathlib.Path) -> list[Preference]:
    """Of {"prompt": text or turns, "chosen": text, "rejected": text} a line. InvalidField as above."""
    return _read(file, _preference)


def read(file: pathlib.Path) -> list[Prompt] | list[Preference]:
    """Of the kind that its first line is of. InvalidField as above."""
    try:
        first = next((line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()), "")
    except (OSError, UnicodeDecodeError):
        first = ""
    return read_preferences(file) if '"chosen"' in first else read_prompts(file)


def publish(store: registry.Registry, file: str, line: lines.LineConfig) -> registry.Manifest:
    """Publishes a file that can be read as an artifact of the line; the same file, the same id."""
    path = pathlib.Path(file)
    count = len(read(path))
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        shutil.copyfile(path, folder / SET_FILE)
        draft = registry.ManifestDraft(
            kind=models.ModelKind.DATASET,
            tenant=line.tenant,
            line=line.name,
            method=METHOD,
            settings={"card": {"lines": count}},
        )
        return store.publish(folder, draft)


def _read(file: pathlib.Path, read: Callable[[int, dict[str, Any]], _Read]) -> list[_Read]:
    made, bad = [], []
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as problem:
        raise errors.InvalidField("file", f"{str(file)!r} cannot be read ({problem})", "name a UTF-8 file") from problem
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            made.append(read(number, _object(line)))
        except _Bad as problem:
            bad.append((number, problem))
    if bad:
        first, why = bad[0]
        others = ", ".join(str(number) for number, _ in bad[1 : _NAMED + 1]) + (" …" if len(bad) > _NAMED + 1 else "")
        also = f" (and {len(bad) - 1} more: {others})" if others else ""
        raise errors.InvalidField(f"{file.name} line {first}", f"{why.problem}{also}", why.remedy)
    if not made:
        raise errors.InvalidField("file", f"{str(file)!r} holds no line", "give one JSON object a line")
    return made


def _object(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as problem:
        raise _Bad(f"is no JSON ({problem})", "give one JSON object a line") from None
    if not isinstance(row, dict):
        raise _Bad("is no JSON object", "give one JSON object a line")
    return row


def _prompt(number: int, row: dict[str, Any]) -> Prompt:
    keys = {"prompt", "messages"} & row.keys()
    if len(keys) != 1 or row.keys() - keys:
        raise _Bad(f"has the keys {_listed(row)}", "give `prompt` or `messages` alone")
    return Prompt(number, _turns(row[keys.pop()]))


def _preference(number: int, row: dict[str, Any]) -> Preference:
    if row.keys() != {"prompt", "chosen", "rejected"}:
        raise _Bad(f"has the keys {_listed(row)}", "give `prompt`, `chosen` and `rejected`")
    for key in ("chosen", "rejected"):
        if not isinstance(row[key], str) or not row[key].strip():
            raise _Bad(f"has no text in `{key}`", "give a string that is not empty")
    if row["chosen"] == row["rejected"]:
        raise _Bad("has the same text in `chosen` and `rejected`", "leave the line out")
    return Preference(number, _turns(row["prompt"]), row["chosen"], row["rejected"])


def _listed(row: dict[str, Any]) -> str:
    return ", ".join(repr(key) for key in sorted(row)) or "of nothing"


def _turns(given: Any) -> tuple[text.Message, ...]:
    turns = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(turns, list) or not turns or not all(_is_turn(turn) for turn in turns):
        raise _Bad("has no prompt that can be asked", _TURNS)
    if turns[-1]["role"] != text.Role.USER:
        raise _Bad(f"has a prompt that ends with the {turns[-1]['role']}'s turn", _TURNS)
    return tuple(text.Message(text.Role(turn["role"]), text.Text(turn["content"])) for turn in turns)


def _is_turn(turn: Any) -> bool:
    return (
        isinstance(turn, dict)
        and turn.keys() == {"role", "content"}
        and turn["role"] in _ROLES
        and isinstance(turn["content"], str)
        and bool(turn["content"].strip())
    )
