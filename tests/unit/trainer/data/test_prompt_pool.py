"""The prompts that a policy is trained on: from the training split, each once, no session above its share."""

import datetime

from trimtab.core import examples, ids, text
from trimtab.trainer.data import cutting, datasets, prompts

AT = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)


def example(question: str, session: str = "", split: datasets.Split = "train") -> datasets.DatasetExample:
    turns = [{"role": "user", "content": question}]
    return datasets.DatasetExample(f"{session} {question}", split, "thumb", turns, response="a", session=session)


def questions(pool: prompts.Pool) -> list[str]:
    return [prompt[-1].content.read() for prompt in pool.prompts]


def test_each_prompt_is_there_once_in_the_order_of_its_first_example() -> None:
    rows = [example("b", "1"), example("a", "2"), example("b", "3"), example("a")]
    assert questions(prompts.pool(datasets.Dataset(rows), per_session=9)) == ["b", "a"]


def test_a_session_has_a_limit_and_what_is_over_it_is_counted() -> None:
    rows = [example(f"q{i}", "talker") for i in range(5)] + [example("q9", "other")]
    pool = prompts.pool(datasets.Dataset(rows), per_session=2)
    assert questions(pool) == ["q0", "q1", "q9"]
    assert pool.figures()["prompts_over_session_limit"] == 3


def test_what_one_session_has_no_room_for_another_may_bring() -> None:
    rows = [*(example(f"q{i}", "talker") for i in range(3)), example("q2", "other")]
    pool = prompts.pool(datasets.Dataset(rows), per_session=2)
    assert questions(pool) == ["q0", "q1", "q2"] and pool.over_limit == 0


def test_a_prompt_that_is_repeated_takes_no_room_of_its_session() -> None:
    rows = [example("q0", "one"), example("q0", "one"), example("q1", "one")]
    assert questions(prompts.pool(datasets.Dataset(rows), per_session=2)) == ["q0", "q1"]


def test_an_operator_s_files_have_no_session_and_no_limit() -> None:
    rows = [example(f"q{i}") for i in range(5)]
    assert len(prompts.pool(datasets.Dataset(rows), per_session=1).prompts) == 5


def test_nothing_comes_from_the_held_out_split_and_shared_words_are_counted() -> None:
    rows = [example("hello", "1"), example("hello", "2", "held_out"), example("secret", "3", "held_out")]
    pool = prompts.pool(datasets.Dataset(rows), per_session=9)
    assert questions(pool) == ["hello"] and pool.also_held_out == 1


def test_a_plain_text_asks_nothing() -> None:
    plain = datasets.DatasetExample("t", "train", "text", [], response="Once upon a time")
    assert questions(prompts.pool(datasets.Dataset([plain, example("a")]), per_session=9)) == ["a"]


def stored(number: int, **changes: object) -> examples.Example:
    said: dict[str, object] = {
        "id": f"example-{number}",
        "context": text.Context("acme", "support", session_hash=bytes([number % 2]) * 16),
        "partition": 0,
        "sequence": number,
        "revision": 1,
        "fold": next(fold for fold in range(ids.FOLDS) if fold not in ids.HELD_OUT_FOLDS),
        "occurred_at": AT,
        "feedback_id": f"f{number}",
        "kind": examples.ThumbExample(text.Text("an answer"), up=True),
        "prompt": (text.Message(text.Role.USER, text.Text(f"question {number}")),),
    }
    return examples.Example(**(said | changes))  # type: ignore[arg-type]


def test_a_cut_tells_the_session_and_leaves_out_who_did_not_consent_and_what_is_quarantined() -> None:
    private = text.Context("acme", "support", session_hash=b"p" * 16, store=False)
    rows = [*map(stored, range(6)), stored(6, context=private), stored(7)]
    cut = cutting.cut(rows, quarantined={"example-7": "of a bad policy"})
    pool = prompts.pool(datasets.Dataset(cut.examples), per_session=2)
    assert questions(pool) == ["question 0", "question 1", "question 2", "question 3"]
    assert pool.over_limit == 2
