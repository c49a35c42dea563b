"""Scores of first answers: the first record of each counts, whenever it comes; what has no score is listed."""

import dataclasses
import math
import pathlib
import random

import pytest
from tests.unit.ledger import making

from trimtab.bus import topics
from trimtab.core import completions, errors, scoring, text
from trimtab.core import ledger as core_ledger
from trimtab.ledger import evidence, scores
from trimtab.wire import schemas


def answer(name: str = "s", number: int = 0, **other: object) -> completions.Completion:
    """A measured first answer."""
    made = making.completion(name, number, **({"exposure": making.exposed()} | other))
    return dataclasses.replace(made, measured=completions.Measured(tokens=3.0))


def score(about: completions.Completion, outcome: float | str) -> scoring.AnswerScore:
    context = text.Context(about.context.tenant, making.LINE, session_hash=about.context.session_hash)
    return scoring.AnswerScore(about.id, context, "rel", "reward", "digest", making.at(2.0), outcome)


def rewards(store: making.Ledger, tenant: str = making.TENANT) -> list[float | None]:
    """In order of first exposure."""
    found = evidence.evidence(store.store, core_ledger.EvidenceRequest(tenant, "rel", 50.0), making.at(100.0))
    return [one.first.reward for one in found.sessions if one.first is not None]


def unscored(store: making.Ledger, limit: int = 64, tenant: str = making.TENANT) -> list[str]:
    asked = core_ledger.UnscoredRequest(tenant, "rel", limit)
    return [one.completion_id for one in scores.unscored(store.store, asked).answers]


def test_the_first_score_of_an_answer_counts_and_later_ones_do_not(ledger: making.Ledger) -> None:
    one, two = answer("one", created=1.0), answer("two", created=2.0)
    ledger.take(one, two, score(one, 0.5), score(one, 0.75))
    ledger.take(score(one, 1.5), score(two, "too long"), score(two, 3.0))
    assert rewards(ledger) == [0.5, None]
    assert unscored(ledger) == []


def test_a_score_may_come_before_its_completion(ledger: making.Ledger) -> None:
    one = answer()
    ledger.take(score(one, -0.25))
    assert rewards(ledger) == []
    ledger.take(one)
    assert rewards(ledger) == [-0.25]
    assert unscored(ledger) == []


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_unscored_and_not_asked_for_again(ledger: making.Ledger, reward: float) -> None:
    one = answer()
    ledger.take(one, score(one, reward))
    assert rewards(ledger) == [None]
    assert unscored(ledger) == []


def test_a_reward_of_zero_is_one(ledger: making.Ledger) -> None:
    one = answer()
    ledger.take(one, score(one, 0.0))
    assert rewards(ledger) == [0.0]


def test_unscored_are_first_answers_in_either_stage_whose_text_is_in_the_clear_oldest_first(
    ledger: making.Ledger,
) -> None:
    safety = answer("safety", created=9.0, exposure=making.exposed(stage="safety"), texts=["first", "second"])
    first, later = answer("s", 1, created=5.0), answer("s", 2, created=6.0)
    sealed = answer("sealed")
    hidden = text.Text(text.Ciphertext(b"x", "key"))
    ledger.take(
        safety,
        later,
        first,
        answer("unkept", store=False),
        dataclasses.replace(sealed, responses=(completions.Response(0, hidden),)),
        dataclasses.replace(answer("asked"), prompt=(text.Message(text.Role.USER, hidden),)),
        dataclasses.replace(answer("failed"), responses=()),
        answer("pinned", exposure=making.exposed(randomised=False)),
        answer("promoted", exposure=making.exposed(stage="promoted")),
        answer("elsewhere", exposure=making.exposed("other")),
        answer("theirs", tenant="other"),
    )
    asked = core_ledger.UnscoredRequest(making.TENANT, "rel", 64)
    found = scores.unscored(ledger.store, asked).answers
    assert [one.completion_id for one in found] == [first.id, safety.id]
    assert (found[1].prompt, found[1].response) == (safety.prompt, text.Text("first"))
    assert found[1].session_hash == safety.context.session_hash
    ledger.take(score(first, 1.0))
    assert unscored(ledger) == [safety.id]
    assert unscored(ledger, tenant="nobody") == []


def test_an_earlier_answer_of_the_session_takes_the_place_of_the_first(ledger: making.Ledger) -> None:
    later, first = answer("s", 2, created=6.0), answer("s", 1, created=5.0)
    ledger.take(later, score(later, 1.0))
    ledger.take(first)
    assert (unscored(ledger), rewards(ledger)) == ([first.id], [None])


def test_as_many_are_listed_as_asked_for_and_no_more_text_than_a_message_holds(ledger: making.Ledger) -> None:
    long = "a" * (3 * 1024 * 1024)
    known = [answer(f"s{number}", created=float(number), texts=[long if number == 4 else "x"]) for number in range(7)]
    known += [answer("endless", created=8.0, texts=["a" * (5 * 1024 * 1024)])]
    ledger.take(*known)
    ids = [one.id for one in known]
    assert unscored(ledger, 3) == ids[:3]
    assert unscored(ledger) == ids[:7]
    ledger.take(*(score(one, 1.0) for one in known[:7]))
    assert unscored(ledger) == ids[7:]
    with pytest.raises(errors.InvalidField, match="`limit`"):
        unscored(ledger, 0)


def test_every_order_of_arrival_and_a_rebuild_give_the_same(tmp_path: pathlib.Path) -> None:
    known = [answer(f"s{number}", created=float(number)) for number in range(9)]
    said = [score(one, float(number)) for number, one in enumerate(known) if number % 4]
    said += [score(one, -1.0) for one in known[1:5]]
    sources = making.Sources()
    records = [sources.record(one) for one in known] + [sources.record(one, topics.SCORES) for one in said]
    found = []
    for turn in range(12):
        order = random.Random(turn).sample(range(len(records)), len(records))
        by_place = {source: iter([r for r in records if r.source == source]) for source in {r.source for r in records}}
        mixed = [next(by_place[records[place].source]) for place in order]  # within a partition nothing moves
        with making.ledger(f"sqlite:///{tmp_path}/{turn}.db") as store:
            for start in range(0, len(mixed), 1 + turn):
                store.feed(mixed[start : start + 1 + turn])
            found.append((rewards(store), unscored(store)))
    assert found == [([None, 1.0, 2.0, 3.0, -1.0, 5.0, 6.0, 7.0, None], [known[0].id, known[8].id])] * 12


def test_a_record_survives_its_bytes(ledger: making.Ledger) -> None:
    for outcome in (0.0, -3.5, "no prompt"):
        record = score(answer(), outcome)
        assert schemas.decode(*schemas.encode(record), scoring.AnswerScore) == record
