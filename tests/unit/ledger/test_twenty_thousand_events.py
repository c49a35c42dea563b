"""Promise 3 at length: 20,000 events of every kind in a random order, and the ledger says what one process would."""

import collections
import random
from typing import Any

import pytest
from tests.postgres.stores import Stores
from tests.unit.ledger import making, reference
from tests.unit.ledger.test_any_arrival_order import arrivals

from trimtab.core import completions, examples, feedback, ledger, text
from trimtab.ledger import counting

EVENTS = 20_000
PER_SESSION = 14


def answers(rng: random.Random, session: int) -> list[completions.Completion]:
    return [
        making.completion(f"s{session}", number, texts=[f"{session} {number} {choice}" for choice in range(3)])
        for number in range(rng.randint(1, 3))
    ]


def kind(rng: random.Random, about: completions.Completion, beside: completions.Completion) -> feedback.Kind:
    """Something said of one answer, or of it and another of its session."""
    target = making.ref(about, rng.randrange(2))
    other = making.ref(about, 2) if rng.random() < 0.5 else making.ref(beside, 2)
    third = making.ref(beside, 1 - target.choice)
    said = text.Text(rng.choice(["so", "thus"]))
    ranked = tuple(feedback.RankedResponse(ref, rng.randint(1, 3)) for ref in (target, other, third))
    kinds: list[feedback.Kind] = [
        feedback.Thumb(target, rng.random() < 0.5),
        feedback.Rating(target, rng.randint(1, 5), 5),
        feedback.Comparison(target, other, rng.choice([None, 0.5])),
        feedback.Comparison(target, other, tie=True),
        feedback.Ranking(ranked),
        feedback.Edit(target, said),
        feedback.Critique(target, said, rng.choice([None, feedback.Span(0, 2)])),
        feedback.Signal(target, rng.choice(list(feedback.SignalKind))),
        feedback.Demonstration(about.prompt, said),
        feedback.Retraction("", rng.choice([about.id, ""])),
    ]
    return rng.choice(kinds)


def said_in(rng: random.Random, answered: list[completions.Completion]) -> list[feedback.FeedbackEvent]:
    """One session's events. Names are few: some meet on two completions, have two bodies, or name what never comes."""
    events: list[feedback.FeedbackEvent] = []
    for number in range(PER_SESSION):
        about, beside = rng.choice(answered), rng.choice(answered)
        earlier = [event.id for event in events] or ["f0"]
        opinion = kind(rng, about, beside)
        amends = isinstance(opinion, feedback.Retraction) or rng.random() < 0.3
        named = rng.choice([*earlier, "never"] if rng.random() < 0.1 else earlier) if amends else ""
        events.append(
            making.event(
                opinion,
                f"f{rng.randrange(number + 1)}" if rng.random() < 0.2 else f"f{number}",
                about=about,
                occurred=rng.randint(1, 5),
                supersedes=[named] if named else [],
                rater=rng.choice(["", "r"]),
            )
        )
    return events


@pytest.mark.slow
def test_twenty_thousand_events_in_any_order_mean_what_one_process_reads_in_them(stores: Stores) -> None:
    rng = random.Random(20_000)
    answered = [answers(rng, session) for session in range(EVENTS // PER_SESSION + 1)]
    distinct = [event for ours in answered for event in said_in(rng, ours)]
    assert len(distinct) >= EVENTS
    said = distinct + rng.sample(distinct, len(distinct) // 10)
    rng.shuffle(said)
    arrived = [completion for ours in answered for completion in ours if rng.random() < 0.97]
    sources = making.Sources()
    records = [sources.record(value) for value in [*arrived, *said]]
    expected = reference.meaning(said, arrived)
    with making.ledger(stores.url()) as store:
        for batch in arrivals(records, rng, cut=0.0005):
            store.feed(batch)
        found = store.newest().values()
        counts = counting.counts(store.store, ledger.CountsRequest(making.TENANT, ""))
    assert collections.Counter(map(_told, found)) == expected.examples
    assert counts.rejected == 0
    for status in ("joined", "superseded", "waiting"):
        assert getattr(counts, status) == expected.statuses[status], status
    assert counts.conflicts == expected.statuses["conflict"]
    assert counts.feedback + counts.duplicates == len(said)
    assert min(collections.Counter(type(example.kind) for example in found).values()) > 200


def _told(example: examples.Example) -> tuple[Any, ...]:
    """The example as the reference puts it."""
    kind = example.kind
    match kind:
        case examples.ThumbExample():
            told = f"{[kind.response.read()]} {kind.up}"
        case examples.RatingExample():
            told = f"{[kind.response.read()]} {kind.stars} of {kind.scale}"
        case examples.PairExample():
            told = f"{[kind.chosen.read(), kind.rejected.read()]} {kind.strength} {kind.tie}"
        case examples.RankingExample():
            told = f"{[(item.response.read(), item.rank) for item in kind.items]}"
        case examples.EditExample():
            told = f"{[kind.original.read()]} {kind.corrected.read()}"
        case examples.DemonstrationExample():
            told = f"[] {kind.response.read()}"
        case examples.CritiqueExample():
            told = f"{[kind.response.read()]} {kind.comment.read()} {kind.span}"
        case examples.SignalExample():
            told = f"{[kind.response.read()]} {kind.signal.value}"
        case None:
            raise AssertionError("a withdrawn example counts")
    return example.feedback_id, told, tuple(sorted(example.feedback_chain))
