"""An operator's file of demonstrations, preferences or plain text becomes a data set, or is refused by line."""

import json
import pathlib

import pytest

from trimtab import registry
from trimtab.core import errors, models
from trimtab.trainer.data import datasets


@pytest.fixture
def store(tmp_path: pathlib.Path) -> registry.Registry:
    return registry.Registry(f"file://{tmp_path}/registry", tmp_path / "cache")


def publish(store: registry.Registry, folder: pathlib.Path, *rows: object) -> registry.Manifest:
    file = folder / "file.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return datasets.publish_file(store, file, "acme", "support")


def test_all_four_forms_are_read(store: registry.Registry, tmp_path: pathlib.Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    manifest = publish(
        store,
        tmp_path,
        {"messages": [{"role": "system", "content": "s"}, *turns, {"role": "user", "content": "q2"}, turns[1]]},
        {"prompt": "q", "response": "a"},
        {"prompt": turns[:1], "chosen": "good", "rejected": "bad"},
        {"text": "A document.\n\nOf two paragraphs."},
    )
    chat, short, pair, document = datasets.read(store.fetch(manifest.id)).examples
    assert manifest.kind is models.ModelKind.DATASET
    assert (chat.kind, chat.response, len(chat.prompt)) == ("demonstration", "a", 4)
    assert (short.prompt, short.response) == (turns[:1], "a")
    assert (pair.kind, pair.prompt, pair.chosen, pair.rejected) == ("pair", turns[:1], "good", "bad")
    assert (document.kind, document.prompt, document.response) == ("text", [], "A document.\n\nOf two paragraphs.")


def test_the_same_file_is_the_same_data_set_and_repeated_lines_count_once(
    store: registry.Registry, tmp_path: pathlib.Path
) -> None:
    rows = [{"prompt": f"q{number}", "response": "a"} for number in range(20)]
    first = publish(store, tmp_path, *rows)
    assert publish(store, tmp_path, *rows, rows[3]).id == first.id
    assert first.settings["card"]["members"] == 20


def test_a_prompt_is_held_out_or_trained_whatever_is_said_to_it(
    store: registry.Registry, tmp_path: pathlib.Path
) -> None:
    rows = [
        {"prompt": f"q{number}", "chosen": "good", "rejected": f"bad {wrong}"}
        for number in range(200)
        for wrong in "ab"
    ]
    examples = datasets.read(store.fetch(publish(store, tmp_path, *rows).id)).examples
    splits: dict[str, set[str]] = {}
    for one in examples:
        splits.setdefault(one.prompt[0]["content"], set()).add(one.split)
    assert all(len(seen) == 1 for seen in splits.values())
    held_out = sum(seen == {"held_out"} for seen in splits.values())
    assert 35 <= held_out <= 85


def test_about_one_document_in_ten_is_held_out(store: registry.Registry, tmp_path: pathlib.Path) -> None:
    rows = [{"text": f"Document {number}."} for number in range(300)]
    examples = datasets.read(store.fetch(publish(store, tmp_path, *rows).id)).examples
    assert 15 <= sum(one.split == "held_out" for one in examples) <= 50


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q"},
        {"text": " "},
        {"text": ["a"]},
        {"text": "a", "prompt": "q"},
        {"prompt": "", "response": "a"},
        {"prompt": "q", "response": "  "},
        {"prompt": "q", "response": 3},
        {"prompt": [{"role": "robot", "content": "x"}], "response": "a"},
        {"prompt": "q", "chosen": "same", "rejected": "same"},
        {"messages": [{"role": "user", "content": "q"}]},
        {"messages": [{"role": "assistant", "content": "a"}]},
        {"messages": "q"},
        ["prompt", "response"],
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_published(
    store: registry.Registry, tmp_path: pathlib.Path, row: object
) -> None:
    with pytest.raises(errors.InvalidField, match="line 2"):
        publish(store, tmp_path, {"prompt": "q", "response": "a"}, row)
    assert store.list() == []


def test_a_file_without_examples_is_refused(store: registry.Registry, tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.InvalidField, match="no example"):
        publish(store, tmp_path)
    with pytest.raises(errors.InvalidField, match="file"):
        datasets.publish_file(store, tmp_path / "absent.jsonl", "acme", "support")
