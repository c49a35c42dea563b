"""What a file names for a judge: answers of the platform, or plain texts, whose order tells nothing of a preference."""

import gzip
import json
import pathlib
from typing import Any

import pytest

from trimtab.cli.feedback import importing
from trimtab.cli.feedback.rlaif import pairs, questions, texts
from trimtab.core import errors, text

BLUE = "\n\nHuman: Why is the sky blue?\n\nAssistant:"


def read(folder: pathlib.Path, *rows: Any, name: str = "pairs.jsonl") -> tuple[list[pairs.Wanted], int]:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return pairs.read_file(folder / name)


def test_each_form_of_a_row_is_read(tmp_path: pathlib.Path) -> None:
    wanted, left_out = read(
        tmp_path,
        {"completion": "chatcmpl-a"},
        {"first": "chatcmpl-a:1", "second": "chatcmpl-b"},
        {"prompt": "Why?", "answers": ["So.", "No."]},
        {
            "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
            "answers": ["a", "b"],
        },
        {"chosen": f"{BLUE} Air.", "rejected": f"{BLUE} Paint."},
        {"chosen": f"{BLUE} Air.", "rejected": "\n\nHuman: Why?\n\nAssistant: Paint."},
        name="pairs.jsonl.gz",
    )
    assert left_out == 1
    assert wanted[0].completion_id == "chatcmpl-a"
    assert wanted[1].refs == (text.ResponseRef("chatcmpl-a", 1), text.ResponseRef("chatcmpl-b"))
    asked, brief, blue = (one.plain for one in wanted[2:])
    assert asked and brief and blue
    assert {asked.source, brief.source, blue.source} == {texts.SOURCE, importing.HH_RLHF}
    assert [turn.role for turn in brief.prompt] == [text.Role.SYSTEM, text.Role.USER]
    assert set(blue.answers) == {"Air.", "Paint."}


def test_two_texts_are_the_same_pair_in_either_order_and_say_nothing_of_a_preference() -> None:
    orders = [texts.read({"prompt": "Why?", "answers": answers}) for answers in (["So.", "No."], ["No.", "So."])]
    assert orders[0] == orders[1]
    first = [texts.read({"chosen": f"{BLUE} yes {n}", "rejected": f"{BLUE} no {n}"}).answers[0] for n in range(200)]
    assert 70 < sum(answer.startswith("yes") for answer in first) < 130
    assert orders[0] != texts.read({"prompt": "Who?", "answers": ["So.", "No."]})


def test_a_verdict_names_its_texts_whichever_came_first() -> None:
    pair = texts.read({"prompt": "Why?", "answers": ["So.", "No."]})
    for preference, better in zip(questions.Preference, (*pair.answers, pair.answers[0]), strict=True):
        item = pair.verdict(preference, "id")
        assert (item.preferred.read(), item.tie) == (better, preference is questions.Preference.TIE)
        assert {item.preferred.read(), item.rejected.read()} == set(pair.answers)
    assert pair.feedback_id("m", "") != pair.feedback_id("n", "") != pair.feedback_id("n", "helpful")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?", "answers": ["So."]},
        {"prompt": "Why?", "answers": ["So.", 2]},
        {"prompt": [], "answers": ["a", "b"]},
        {"prompt": [{"role": "nobody", "content": "Why?"}], "answers": ["a", "b"]},
        {"prompt": [{"content": "Why?"}], "answers": ["a", "b"]},
        {"prompt": "Why?", "chosen": "a"},
        {"chosen": "a", "rejected": "b"},
        {"first": 1, "second": 2},
    ],
)
def test_what_is_of_no_form_names_its_line(tmp_path: pathlib.Path, row: Any) -> None:
    with pytest.raises(errors.InvalidField, match=r"pairs\.jsonl line 2.*names no answers"):
        read(tmp_path, {"completion": "a"}, row)
