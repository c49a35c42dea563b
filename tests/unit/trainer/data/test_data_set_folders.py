"""A data set folder says what was written, and refuses what was not."""

import json
import pathlib

import pytest

from trimtab.core import errors
from trimtab.trainer.data import datasets

PROMPT = [{"role": "user", "content": "Wie spät ist es? 時間"}]


def _examples() -> list[datasets.DatasetExample]:
    return [
        datasets.DatasetExample(
            id="a", split="train", kind="thumb", prompt=PROMPT, response="spät", up=True, rater="r"
        ),
        datasets.DatasetExample(
            id="b", split="held_out", kind="pair", prompt=PROMPT, chosen="x", rejected="y", strength=0.25, surface="web"
        ),
        datasets.DatasetExample(id="c", split="train", kind="demonstration", prompt=PROMPT, response="z\n\u2028z"),
        datasets.DatasetExample(id="d", split="train", kind="rating", prompt=PROMPT, response="z", stars=4, scale=5),
        datasets.DatasetExample(
            id="e",
            split="train",
            kind="ranking",
            prompt=PROMPT,
            ranked=[datasets.RankedText(response=text, rank=rank) for text, rank in (("a", 1), ("b", 1), ("c", 3))],
        ),
        datasets.DatasetExample(id="f", split="train", kind="pair", prompt=PROMPT, chosen="x", rejected="y", tie=True),
    ]


def test_what_is_written_is_read_back_in_order(tmp_path: pathlib.Path) -> None:
    datasets.write(tmp_path, _examples(), [])
    assert datasets.read(tmp_path).examples == _examples()


def test_rows_written_before_there_were_stars_and_rankings_are_read(tmp_path: pathlib.Path) -> None:
    datasets.write(tmp_path, _examples()[:3], [])
    rows = [json.loads(line) for line in (tmp_path / "examples.jsonl").read_text().strip().split("\n")]
    for row in rows:
        for name in ("tie", "stars", "scale", "ranked"):
            del row[name]
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert datasets.read(tmp_path).examples == _examples()[:3]


def test_the_card_counts_every_member_once(tmp_path: pathlib.Path) -> None:
    members = [
        datasets.Member("a", datasets.TRAINED),
        datasets.Member("b", datasets.HELD_OUT),
        datasets.Member("d", datasets.REJECTED, "empty text"),
    ]
    datasets.write(tmp_path, _examples()[:2], members, {"0": 7})
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["members"] == sum(card["dispositions"].values()) == 3
    assert card["rejected_by_reason"] == {"empty text": 1}
    assert card["by_kind"] == {"pair/held_out": 1, "thumb/train": 1}
    assert card["watermarks"] == {"0": 7}
    assert datasets.read_members(tmp_path) == members


def test_the_same_content_gives_the_same_bytes(tmp_path: pathlib.Path) -> None:
    for name in ("one", "two"):
        datasets.write(tmp_path / name, _examples(), [datasets.Member("a", datasets.TRAINED)], {"1": 2, "0": 1})
    for file in ("examples.jsonl", "members.jsonl", "card.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("line", ["not json", "[]", '{"id": "a"}', '{"id": "a", "surprise": 1}'])
def test_a_damaged_line_is_named_not_skipped(tmp_path: pathlib.Path, line: str) -> None:
    datasets.write(tmp_path, _examples(), [])
    with (tmp_path / "examples.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(errors.ArtifactCorrupt, match=r"examples\.jsonl"):
        datasets.read(tmp_path)
