"""Files in Anthropic's hh-rlhf format: what is read, what is left out and why, and what stops the import."""

import gzip
import json
import pathlib
from typing import Any

import pytest

from trimtab.cli.feedback import importing
from trimtab.core import errors, text

SHARED = "\n\nHuman: Hi.\n\nAssistant: Hello: what is it?\n\nHuman: Why is the sky\n\nblue?"
GOOD = {"chosen": f"{SHARED}\n\nAssistant: Because of the air.\n", "rejected": f"{SHARED}\n\nAssistant: No idea."}
OTHER = {"chosen": "\n\nHuman: A?\n\nAssistant: Yes.", "rejected": "\n\nHuman: A?\n\nAssistant: No."}
# The dialogues part before the assistant's last turn.
PARTED = {
    "chosen": "\n\nHuman: A?\n\nAssistant: One.\n\nHuman: B?\n\nAssistant: Yes.",
    "rejected": "\n\nHuman: A?\n\nAssistant: Two.\n\nHuman: B?\n\nAssistant: No.",
}
# One goes on for longer.
LONGER = {
    "chosen": "\n\nHuman: A?\n\nAssistant: Yes.\n\nHuman: Sure?\n\nAssistant: Yes.",
    "rejected": "\n\nHuman: A?\n\nAssistant: No.",
}
# The person has the last word: there is no answer to prefer.
UNANSWERED = {"chosen": "\n\nHuman: A?", "rejected": "\n\nHuman: A?\n\nAssistant: No."}


def lines(*pairs: Any) -> bytes:
    return b"".join((pair if isinstance(pair, bytes) else json.dumps(pair).encode()) + b"\n" for pair in pairs)


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "pairs.jsonl"


def test_the_last_turn_is_the_preference_and_what_stands_before_it_the_prompt(file: pathlib.Path) -> None:
    file.write_bytes(lines(GOOD))
    [item], left_out = importing.read_hh_rlhf(file)
    assert left_out == {}
    assert [(message.role, message.content.read()) for message in item.prompt] == [
        (text.Role.USER, "Hi."),
        (text.Role.ASSISTANT, "Hello: what is it?"),
        (text.Role.USER, "Why is the sky\n\nblue?"),
    ]
    assert (item.preferred.read(), item.rejected.read()) == ("Because of the air.", "No idea.")


def test_gz_is_read_as_it_is(file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    packed = tmp_path / "pairs.jsonl.gz"
    packed.write_bytes(gzip.compress(lines(GOOD, PARTED, OTHER)))
    file.write_bytes(lines(GOOD, PARTED, OTHER))
    assert importing.read_hh_rlhf(packed) == importing.read_hh_rlhf(file)


def test_text_of_any_script_comes_through(file: pathlib.Path) -> None:
    pair = {
        "chosen": "\n\nHuman: Grüße, 你好\u2028?\n\nAssistant: ¡Hola! 🙂",
        "rejected": "\n\nHuman: Grüße, 你好\u2028?\n\nAssistant: -",
    }
    file.write_bytes(lines(json.dumps(pair, ensure_ascii=False).encode()))
    [item], _ = importing.read_hh_rlhf(file)
    assert (item.prompt[0].content.read(), item.preferred.read()) == ("Grüße, 你好\u2028?", "¡Hola! 🙂")


def test_a_pair_is_known_by_what_it_says(file: pathlib.Path) -> None:
    swapped = {"chosen": OTHER["rejected"], "rejected": OTHER["chosen"]}
    file.write_bytes(lines(OTHER, GOOD, OTHER, swapped))
    first, good, again, other_way = (item.item for item in importing.read_hh_rlhf(file)[0])
    assert first == again
    assert len({first, good, other_way}) == 3


@pytest.mark.parametrize("pair", [PARTED, LONGER, UNANSWERED], ids=["parted", "longer", "unanswered"])
def test_a_pair_without_one_answer_to_prefer_is_left_out_by_its_line(file: pathlib.Path, pair: Any) -> None:
    file.write_bytes(lines(GOOD, pair, OTHER, pair))
    items, left_out = importing.read_hh_rlhf(file)
    assert [item.preferred.read() for item in items] == ["Because of the air.", "Yes."]
    assert list(left_out.values()) == [[2, 4]]
    [reason] = left_out
    assert reason


@pytest.mark.parametrize("answer", ["", " ", "\n\n"])
def test_an_empty_answer_does_not_stop_the_others(file: pathlib.Path, answer: str) -> None:
    empty = {"chosen": f"\n\nHuman: A?\n\nAssistant:{answer}", "rejected": "\n\nHuman: A?\n\nAssistant: No."}
    file.write_bytes(lines(empty, GOOD))
    items, left_out = importing.read_hh_rlhf(file)
    assert len(items) + sum(len(numbers) for numbers in left_out.values()) == 2
    assert items[-1].preferred.read() == "Because of the air."


@pytest.mark.parametrize(
    "broken",
    [
        b"not JSON",
        b'{"chosen": "\\n\\nHuman: A?',
        b'"a string"',
        b"[1, 2]",
        b"null",
        b"7",
        b"{}",
        b'{"chosen": "\\n\\nHuman: A?\\n\\nAssistant: Yes."}',
        b'{"chosen": null, "rejected": null}',
        b'{"chosen": 5, "rejected": 6}',
        b'{"chosen": ["\\n\\nHuman: A?"], "rejected": ["\\n\\nHuman: A?"]}',
        b'{"chosen": {}, "rejected": {}}',
        b'{"chosen": "", "rejected": ""}',
        b'{"chosen": "Yes.", "rejected": "No."}',
        b'{"chosen": "Human: A?\\n\\nAssistant: Yes.", "rejected": "Human: A?\\n\\nAssistant: No."}',
        b'{"chosen": "\\n\\nHuman: A?\\n\\nAssistant: \xff", "rejected": "\\n\\nHuman: A?\\n\\nAssistant: No."}',
        b'{"chosen": "\\n\\nHuman: A?\\n\\nAssistant: \\ud800", "rejected": "\\n\\nHuman: A?\\n\\nAssistant: No."}',
    ],
)
def test_a_line_that_is_not_of_the_format_is_named_by_its_number(file: pathlib.Path, broken: bytes) -> None:
    file.write_bytes(lines(GOOD, OTHER, broken, GOOD))
    with pytest.raises(errors.InvalidField) as problem:
        importing.read_hh_rlhf(file)
    assert "line 3" in str(problem.value)
    assert str(problem.value).endswith(".")


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(lines(GOOD))[:-9]], ids=["not gzip", "cut short"])
def test_a_gz_that_is_none_is_a_sentence(tmp_path: pathlib.Path, content: bytes) -> None:
    packed = tmp_path / "pairs.jsonl.gz"
    packed.write_bytes(content)
    with pytest.raises(errors.InvalidField):
        importing.read_hh_rlhf(packed)
