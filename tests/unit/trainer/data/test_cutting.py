"""A cut gives every example exactly one disposition, whatever order they arrived in."""

import collections
import dataclasses
import datetime
import random

from trimtab.core import examples, feedback, ids, lines, text
from trimtab.trainer.data import cutting, datasets

AT = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)


def said(content: str) -> text.Text:
    return text.Text(content)


def thumb(number: int, **changes: object) -> examples.Example:
    base = examples.Example(
        id=f"example-{number:03}",
        context=text.Context("acme", "support", session_hash=number.to_bytes(16, "big")),
        partition=number % 3,
        sequence=number,
        revision=1,
        fold=number % ids.FOLDS,
        occurred_at=AT,
        feedback_id=f"feedback-{number}",
        kind=examples.ThumbExample(said(f"answer {number}"), up=number % 2 == 0),
        prompt=(text.Message(text.Role.USER, said(f"question {number}")),),
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def pair(number: int, chosen: str, rejected: str, **changes: object) -> examples.Example:
    return thumb(number, kind=examples.PairExample(said(chosen), said(rejected)), **changes)


def disposition(cut: cutting.Cut, number: int) -> tuple[str, str]:
    found = [member for member in cut.members if member.example_id == f"example-{number:03}"]
    assert len(found) == 1
    return found[0].disposition, found[0].reason


def mixed() -> list[examples.Example]:
    sealed = text.Text(text.Ciphertext(b"x", "key-1"))
    ref = text.ResponseRef("c")
    others = [
        examples.RatingExample(said("a"), 4, 5),
        examples.RankingExample((examples.RankedText(said("a"), 2), examples.RankedText(said("b"), 1))),
        examples.EditExample(said("a"), said("b")),
        examples.DemonstrationExample(said("a")),
        examples.CritiqueExample(said("a"), said("b")),
        examples.SignalExample(said("a"), feedback.SignalKind.COPY),
    ]
    return [
        *(thumb(number) for number in range(40)),
        *(pair(number, "good", "bad", responses=(ref,)) for number in range(40, 60)),
        *(thumb(60 + place, kind=kind) for place, kind in enumerate(others)),
        thumb(70, kind=None, withdrawn=True),
        thumb(71, kind=examples.ThumbExample(sealed, up=True)),
        thumb(72, kind=examples.ThumbExample(said("  "), up=True)),
        thumb(73, context=text.Context("acme", "support", session_hash=b"s" * 16, store=False)),
        pair(74, "same", "same"),
        thumb(75, kind=examples.PairExample(said("a"), said("b"), tie=True)),
        thumb(76, kind=examples.EditExample(said("a"), said("a"))),
        thumb(77, kind=examples.RankingExample(tuple(examples.RankedText(said("a"), rank) for rank in (1, 2)))),
        thumb(78, kind=examples.SignalExample(said("a"), feedback.SignalKind.COPY)),
        thumb(79, kind=examples.PairExample(said("a"), said("a"), tie=True)),
        *(thumb(80 + n, revision=2, sequence=500 + n, kind=None, withdrawn=True) for n in range(5)),
        *(thumb(80 + n) for n in range(5)),
    ]


def test_every_example_has_exactly_one_disposition() -> None:
    stored = mixed()
    cut = cutting.cut(stored)
    assert collections.Counter(member.example_id for member in cut.members) == collections.Counter(
        {example.id for example in stored}
    )
    used = {one.id for one in cut.examples}
    assert used == {one.example_id for one in cut.members if one.disposition != datasets.REJECTED}
    assert all(member.reason for member in cut.members if member.disposition == datasets.REJECTED)


def test_the_cut_does_not_depend_on_arrival_order() -> None:
    stored = mixed()
    wanted = cutting.cut(stored)
    for seed in range(20):
        random.Random(seed).shuffle(stored)
        assert cutting.cut(stored) == wanted


def test_training_order_is_partition_then_sequence() -> None:
    stored = [thumb(number) for number in range(30)]
    cut = cutting.cut(stored)
    by_id = {example.id: (example.partition, example.sequence) for example in stored}
    places = [by_id[example.id] for example in cut.examples]
    assert places == sorted(places)
    assert cut.watermarks == {"0": 27, "1": 28, "2": 29}


def test_held_out_folds_never_train() -> None:
    cut = cutting.cut([thumb(number) for number in range(50)])
    assert {int(one.id[-3:]) % ids.FOLDS for one in cut.examples if one.split == "held_out"} == ids.HELD_OUT_FOLDS
    assert not {int(one.id[-3:]) % ids.FOLDS for one in cut.examples if one.split == "train"} & ids.HELD_OUT_FOLDS


def test_rejections_say_why() -> None:
    cut = cutting.cut(mixed())
    assert disposition(cut, 64) == ("rejected", "critique: weighs nothing, a comment has no direction")
    weightless = "signal: weighs nothing until its slope is shown to be above 0; held-out ones measure it"
    assert disposition(cut, 65) == ("rejected", weightless)
    assert disposition(cut, 70) == ("rejected", "withdrawn")
    assert disposition(cut, 71) == ("rejected", "sealed text")
    assert disposition(cut, 72) == ("rejected", "empty text")
    assert disposition(cut, 73) == ("rejected", "no consent to keep the text")
    assert disposition(cut, 74) == ("rejected", "identical answers")
    assert disposition(cut, 76) == ("rejected", "edit that changes nothing")
    assert disposition(cut, 77) == disposition(cut, 79) == ("rejected", "identical answers")


def test_each_kind_becomes_a_row_of_its_own() -> None:
    rows = {one.id[-3:]: one for one in cutting.cut(mixed()).examples}
    assert (rows["060"].kind, rows["060"].response, rows["060"].stars, rows["060"].scale) == ("rating", "a", 4, 5)
    ranked = [datasets.RankedText(response="b", rank=1), datasets.RankedText(response="a", rank=2)]
    assert (rows["061"].kind, rows["061"].ranked) == ("ranking", ranked)
    assert (rows["062"].kind, rows["062"].chosen, rows["062"].rejected) == ("edit", "b", "a")
    assert (rows["062"].demonstrated, rows["063"].demonstrated) == ("b", "a")
    assert (rows["063"].kind, rows["063"].response) == ("demonstration", "a")
    assert (rows["075"].kind, rows["075"].chosen, rows["075"].tie) == ("pair", "a", True)
    assert {one.weight for one in rows.values() if one.kind != "signal"} == {1.0}


def test_signals_are_kept_where_they_are_held_out_and_weigh_nothing_for_their_rater() -> None:
    rater = feedback.Rater(feedback.RaterKind.USER, "cd")
    signals = [
        thumb(number, rater=rater, kind=examples.SignalExample(said(f"a {number}"), kind), fold=0)
        for number, kind in enumerate(feedback.SignalKind)
    ]
    cut = cutting.cut([*signals, *(thumb(number, rater=rater) for number in range(10, 14))], per_rater=3)
    rows = [one for one in cut.examples if one.kind == "signal"]
    assert {(one.split, one.weight) for one in rows} == {("held_out", 0.0)}
    assert [one.up for one in rows] == [kind in {"copy", "accept"} for kind in sorted_by_place(signals)]
    assert [disposition(cut, number)[0] for number in range(4)] == ["held out"] * 4
    assert sum(one.kind == "thumb" for one in cut.examples) == 3


def sorted_by_place(signals: list[examples.Example]) -> list[str]:
    placed = sorted(signals, key=lambda example: (example.partition, example.sequence))
    return [example.kind.signal.value for example in placed if isinstance(example.kind, examples.SignalExample)]


def test_the_latest_revision_counts_and_a_withdrawn_one_is_gone() -> None:
    first, second = thumb(5), thumb(5, revision=2, sequence=99, kind=examples.ThumbExample(said("answer 5"), up=True))
    assert [one.up for one in cutting.cut([second, first]).examples] == [True]
    gone = thumb(5, revision=3, sequence=120, kind=None, withdrawn=True)
    cut = cutting.cut([gone, first, second])
    assert cut.examples == []
    assert disposition(cut, 5) == ("rejected", "withdrawn")


def test_one_rater_saying_the_same_twice_counts_once() -> None:
    rater = feedback.Rater(feedback.RaterKind.ANNOTATOR, "ab")
    prompt = (text.Message(text.Role.USER, said("q")),)
    twice = [pair(number, "x", "y", rater=rater, prompt=prompt) for number in (13, 14)]
    cut = cutting.cut([*twice, pair(15, "x", "y", prompt=prompt)])
    assert [disposition(cut, number)[0] for number in (13, 14, 15)] == ["trained", "rejected", "trained"]


def test_one_rater_cannot_fill_a_data_set() -> None:
    rater = feedback.Rater(feedback.RaterKind.USER, "cd")
    cut = cutting.cut([thumb(number, rater=rater) for number in range(30)], per_rater=10)
    assert len(cut.examples) == 10
    assert disposition(cut, 29) == ("rejected", "rater limit: 10 examples of one rater are used")


def test_what_stands_and_teaches_a_reward_model_counts_towards_a_trigger() -> None:
    counted = {example.id for example in mixed() if cutting.is_trainable(example)}
    assert {f"example-{number:03}" for number in (1, 41, 60, 61, 62, 75)} <= counted
    assert not counted & {f"example-{number:03}" for number in (63, 64, 65, 70)}


def test_what_is_in_quarantine_is_left_out_with_its_reason_and_so_is_what_repeats_it() -> None:
    alike = {"kind": examples.ThumbExample(said("the same"), up=True), "rater": feedback.Rater(id="r"), "prompt": ()}
    alike["prompt"] = (text.Message(text.Role.USER, said("q")),)
    stored = [thumb(1, **alike), thumb(4, **alike), *(thumb(number) for number in range(11, 17))]
    cut = cutting.cut(stored, quarantined={"example-001": "it led to a worse policy", "example-900": "unknown here"})
    assert disposition(cut, 1) == ("quarantined", "it led to a worse policy")
    assert disposition(cut, 4)[0] == "rejected" and "duplicate" in disposition(cut, 4)[1]
    used = {one.id for one in cut.examples}
    assert used == {f"example-{number:03}" for number in range(11, 17)}
    assert len(cut.members) == len(stored)


def test_a_withdrawn_example_is_rejected_also_in_quarantine() -> None:
    cut = cutting.cut([thumb(1, withdrawn=True, kind=None)], quarantined={"example-001": "why"})
    assert disposition(cut, 1) == ("rejected", "withdrawn")


def voted(number: int, item: int, rater: str, up: bool) -> examples.Example:
    prompt = (text.Message(text.Role.USER, said(f"question {item}")),)
    kind = examples.ThumbExample(said(f"answer {item}"), up=up)
    return thumb(number, kind=kind, prompt=prompt, rater=feedback.Rater(id=rater), fold=0 if item >= 60 else 3)


def shared_votes() -> list[examples.Example]:
    """Three raters on 120 answers, half of them held out; one of them answers the other way where it trains."""
    rng = random.Random(4)
    truths = [rng.random() < 0.5 for _ in range(120)]
    return [
        voted(3 * item + place, item, rater, truth is not (rater == "dd" and item < 60))
        for item, truth in enumerate(truths)
        for place, rater in enumerate(("aa", "bb", "dd"))
    ]


def test_who_errs_like_a_coin_or_worse_is_left_out_and_the_held_out_split_does_not_decide_it() -> None:
    cut = cutting.cut(shared_votes(), weighting=lines.WeightConfig(reliability_overlap=20))
    trained = [one for one in cut.examples if one.split == "train"]
    assert {one.rater for one in trained} == {"aa", "bb"}
    assert {one.rater for one in cut.examples if one.split == "held_out"} == {"aa", "bb", "dd"}
    why = "unreliable: on shared answers its rater errs like a coin"
    assert disposition(cut, 2) == ("rejected", why)
    assert sum(member.reason == why for member in cut.members) == 60
    assert cut.weighting["train_thumb_reliability_least"] == 0.0
    assert cut.weighting["held_out_thumb_reliability_least"] > 0.8


def test_votes_that_nobody_shares_weigh_one_whatever_the_line_says() -> None:
    plain = cutting.cut(mixed())
    weighed = cutting.cut(mixed(), weighting=lines.WeightConfig())
    assert weighed == plain
    assert {one.weight for one in weighed.examples if one.kind not in {"signal"}} == {1.0}
    assert weighed.weighting == {}


def test_an_answer_that_was_seldom_shown_counts_more_up_to_the_cap() -> None:
    stored = [thumb(number, propensity=0.1 if number == 3 else 1.0) for number in (3, 4, 5, 6)]
    cut = cutting.cut(stored, weighting=lines.WeightConfig(propensity_cap=5.0, rater_share=1.0))
    found = {one.id[-3:]: one.weight for one in cut.examples}
    assert found["003"] == 5 * found["004"]
    assert sum(found.values()) == len(found)


def test_a_propensity_that_is_none_is_a_reason_where_it_matters_and_only_there() -> None:
    stored = [thumb(3, propensity=0.0), thumb(4)]
    assert len(cutting.cut(stored, weighting=lines.WeightConfig()).examples) == 2
    cut = cutting.cut(stored, weighting=lines.WeightConfig(propensity_cap=5.0, rater_share=1.0))
    assert disposition(cut, 3) == ("rejected", "propensity that is no probability")
    assert [one.weight for one in cut.examples] == [1.0]


def test_what_was_judged_and_when_travels_with_the_example() -> None:
    later = AT + datetime.timedelta(seconds=90)
    both = [thumb(3, criterion="tone", occurred_at=later), thumb(4)]
    assert [(one.criterion, one.occurred_at - AT.timestamp()) for one in cutting.cut(both).examples] == [
        ("tone", 90.0),
        ("", 0.0),
    ]
    same = {"rater": feedback.Rater(id="r"), "prompt": (text.Message(text.Role.USER, said("q")),)}
    same["kind"] = examples.ThumbExample(said("a"), up=True)
    stored = [
        thumb(3, criterion="tone", **same),
        thumb(6, criterion="safe", **same),
        thumb(9, occurred_at=later, **same),
    ]
    assert [member.disposition for member in cutting.cut([*stored, thumb(12, **same)]).members] == [
        "trained",
        "trained",
        "trained",
        "rejected",
    ]
