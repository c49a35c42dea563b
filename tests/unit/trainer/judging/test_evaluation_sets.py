"""Prompt and preference files of one's own: what is read, and how a bad line is named."""

import json
import pathlib
from typing import Any

import pytest

from trimtab.core import errors, text
from trimtab.trainer.judging import sets

ASKED = (text.Message(text.Role.USER, text.Text("Where?")),)
TURNS = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Where?"}]


def written(folder: pathlib.Path, *rows: Any) -> pathlib.Path:
    """A file of these rows: text as it stands, everything else as JSON."""
    file = folder / "set.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def test_prompts_are_text_or_turns_and_keep_their_line(tmp_path: pathlib.Path) -> None:
    file = written(tmp_path, {"prompt": "Where?"}, "", {"messages": TURNS}, {"prompt": TURNS})
    first, second, third = sets.read_prompts(file)
    assert first == sets.Prompt(1, ASKED)
    assert (second.line, third.line) == (3, 4)
    assert second.turns == third.turns == (text.Message(text.Role.SYSTEM, text.Text("Be kind.")), *ASKED)


def test_preferences_are_read_with_their_line(tmp_path: pathlib.Path) -> None:
    file = written(tmp_path, {"prompt": "Where?", "chosen": "Here.", "rejected": "No."})
    assert sets.read_preferences(file) == [sets.Preference(1, ASKED, "Here.", "No.")]


@pytest.mark.parametrize(
    ("row", "problem", "remedy"),
    [
        ('{"prompt": ', "is no JSON", "give one JSON object a line"),
        ([1], "is no JSON object", "give one JSON object a line"),
        ({"question": "Where?"}, "has the keys 'question'", "`prompt` or `messages`"),
        ({}, "has the keys of nothing", "`prompt` or `messages`"),
        ({"prompt": "a", "messages": TURNS}, "'messages', 'prompt'", "`prompt` or `messages` alone"),
        ({"prompt": "a", "id": "b"}, "'id', 'prompt'", "`prompt` or `messages` alone"),
        ({"prompt": "  "}, "no prompt that can be asked", "ends with the user's"),
        ({"prompt": []}, "no prompt that can be asked", "ends with the user's"),
        ({"prompt": 3}, "no prompt that can be asked", "ends with the user's"),
        ({"messages": [{"role": "boss", "content": "a"}]}, "no prompt that can be asked", "ends with the user's"),
        ({"messages": [*TURNS, {"role": "assistant", "content": "a"}]}, "ends with the assistant's turn", "user's"),
    ],
)
def test_a_bad_prompt_is_named_with_its_line_and_remedy(
    tmp_path: pathlib.Path, row: Any, problem: str, remedy: str
) -> None:
    with pytest.raises(errors.InvalidField) as refused:
        sets.read_prompts(written(tmp_path, {"prompt": "Where?"}, row))
    said = str(refused.value)
    assert said.startswith("`set.jsonl line 2` ")
    assert problem in said
    assert remedy in said


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "a", "chosen": "b"}, "has the keys 'chosen', 'prompt'"),
        ({"prompt": "a", "chosen": "", "rejected": "c"}, "no text in `chosen`"),
        ({"prompt": "a", "chosen": "b", "rejected": 4}, "no text in `rejected`"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "the same text in `chosen` and `rejected`"),
        ({"prompt": "", "chosen": "b", "rejected": "c"}, "no prompt that can be asked"),
    ],
)
def test_a_bad_preference_is_named_with_its_line(tmp_path: pathlib.Path, row: Any, problem: str) -> None:
    with pytest.raises(errors.InvalidField, match=r"set\.jsonl line 1") as refused:
        sets.read_preferences(written(tmp_path, row))
    assert problem in str(refused.value)


def test_of_many_bad_lines_the_first_is_explained_and_the_others_numbered(tmp_path: pathlib.Path) -> None:
    rows = [{"prompt": "a"}, *[{"no": 1}] * 8]
    with pytest.raises(errors.InvalidField, match=r"line 2.*\(and 7 more: 3, 4, 5, 6, 7 …\)"):
        sets.read_prompts(written(tmp_path, *rows))


def test_a_file_of_nothing_and_of_no_text_are_sentences(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.InvalidField, match="holds no line; give one JSON object a line"):
        sets.read_prompts(written(tmp_path, "", " "))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(errors.InvalidField, match="name a UTF-8 file"):
        sets.read_prompts(tmp_path / "bytes")
