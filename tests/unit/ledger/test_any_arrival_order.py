"""Promise 3: whatever the order of arrival and however it is cut into transactions, the same examples come out."""

import collections
import random
import tempfile
from collections.abc import Sequence
from typing import Any

import hypothesis
from hypothesis import strategies
from tests.unit.ledger import making

from trimtab.bus import port, topics
from trimtab.core import completions, examples, feedback
from trimtab.ledger import answers, assembling, events, joining
from trimtab.wire import schemas

_TEXTS = ("an answer", "another", " ")
_SESSIONS = ("s1", "s2")


@strategies.composite
def _answers(draw: strategies.DrawFn) -> list[completions.Completion]:
    made = []
    for name in _SESSIONS:
        for number in range(draw(strategies.integers(1, 2))):
            texts = draw(strategies.lists(strategies.sampled_from(_TEXTS), min_size=1, max_size=2))
            tenant = "other" if draw(strategies.integers(0, 9)) == 0 else making.TENANT
            consent = draw(strategies.integers(0, 9)) != 0
            made.append(making.completion(name, number, texts=texts, tenant=tenant, store=consent))
    return made


@strategies.composite
def _event(draw: strategies.DrawFn, known: Sequence[completions.Completion]) -> feedback.FeedbackEvent:
    about = draw(strategies.sampled_from(known))
    of_session = [other for other in known if other.context.session_hash == about.context.session_hash]
    bare = draw(strategies.integers(0, 4)) == 0 or about.context.tenant != making.TENANT
    other = draw(strategies.sampled_from(list(known) if bare else of_session))
    targets = [making.ref(item, draw(strategies.integers(0, 1)), bare=bare) for item in (about, other)]
    said = about.responses[0].text
    kinds: list[feedback.Kind] = [
        feedback.Thumb(targets[0], draw(strategies.booleans())),
        feedback.Rating(targets[0], draw(strategies.integers(1, 3)), 3),
        feedback.Edit(targets[0], said),
        feedback.Critique(targets[0], said, draw(strategies.sampled_from([None, feedback.Span(0, 9)]))),
        feedback.Signal(targets[0], draw(strategies.sampled_from(feedback.SignalKind))),
        feedback.Demonstration(about.prompt, said),
        feedback.Retraction(),
        feedback.Retraction("", targets[0].completion_id),
    ]
    if targets[0] != targets[1]:
        kinds.append(feedback.Comparison(targets[0], targets[1]))
        kinds.append(feedback.Comparison(*draw(strategies.permutations(targets)), tie=True))
        ranked = tuple(feedback.RankedResponse(target, draw(strategies.integers(1, 2))) for target in targets)
        kinds.append(feedback.Ranking(tuple(draw(strategies.permutations(ranked)))))
    names = strategies.sampled_from(["f1", "f2", "f3", "f4"])
    kind = draw(strategies.sampled_from(kinds))
    superseding = draw(strategies.lists(names, max_size=2, unique=True)) if draw(strategies.booleans()) else []
    return making.event(
        kind,
        draw(names),
        about=about,
        bare=bare and bool(feedback.targets(kind)),
        occurred=draw(strategies.integers(1, 3)),
        supersedes=superseding or (["f1"] if isinstance(kind, feedback.Retraction) else []),
        rater=draw(strategies.sampled_from(["", "r"])),
    )


@strategies.composite
def logs(draw: strategies.DrawFn) -> list[port.Record]:
    """Completions and events, some of them twice, each partition in the order it was written."""
    known = draw(_answers())
    said = draw(strategies.lists(_event(known), min_size=1, max_size=10))
    again = draw(strategies.lists(strategies.sampled_from([*said, *known]), max_size=4))
    sources = making.Sources()
    return [sources.record(value) for value in [*known, *said, *again]]


def arrivals(records: Sequence[port.Record], order: random.Random, cut: float) -> list[list[port.Record]]:
    """The partitions interleaved at random, cut into transactions at random; within a partition nothing moves."""
    queues: dict[port.TopicPartition, collections.deque[port.Record]] = collections.defaultdict(collections.deque)
    for record in records:
        queues[record.source].append(record)
    batches: list[list[port.Record]] = [[]]
    while queues:
        source = order.choice(sorted(queues))
        batches[-1].append(queues[source].popleft())
        if not queues[source]:
            del queues[source]
        if order.random() < cut:
            batches.append([])
    return [batch for batch in batches if batch]


def _whole(records: Sequence[port.Record]) -> tuple[list[events.Received], answers.Answers]:
    """All distinct events and all completions of a log, as the fold takes them."""
    known: dict[Any, dict[str, answers.Answer]] = {}
    received: dict[tuple[Any, ...], events.Received] = {}
    for key, record in enumerate(records):
        if record.topic == topics.COMPLETIONS.name:
            answer = answers.answer_of(schemas.decode(record.value, record.headers, completions.Completion))
            known.setdefault(answer.uuid, {}).setdefault(answer.context.tenant, answer)
            continue
        event = schemas.decode(record.value, record.headers, feedback.FeedbackEvent)
        item = events.receive(event, partition=record.partition, offset=record.offset, key=key)
        identity = (item.tenant, item.subject, event.id, item.digest)
        first = received.get(identity)
        if first is None or item.order < first.order:
            received[identity] = item
    return list(received.values()), known


def _reference(records: Sequence[port.Record]) -> tuple[dict[str, examples.Example], dict[Any, str]]:
    """What the fold says of everything at once: the examples that count, and what became of each event."""
    received, known = _whole(records)
    folded = joining.fold(received, known)
    place = assembling.Place(0, 0, 0)
    counting = [head for head in folded.heads if not head.withdrawn]
    counted = [assembling.assemble(head, assembling.about(head, known), place) for head in counting]
    statuses = {
        (item.tenant, item.subject, item.event.id, item.digest): _words(folded.standings[item.key]) for item in received
    }
    return {example.id: example for example in counted}, statuses


def _words(standing: joining.Standing) -> str:
    return f"{standing.status.value} {standing.reason}".strip()


@hypothesis.given(records=logs(), order=strategies.randoms(use_true_random=False))
@hypothesis.settings(max_examples=30, deadline=None)
def test_every_arrival_order_folds_to_the_same_examples(records: list[port.Record], order: random.Random) -> None:
    expected, statuses = _reference(records)
    with tempfile.TemporaryDirectory() as folder, making.ledger(f"sqlite:///{folder}/ledger.db") as store:
        for batch in arrivals(records, order, cut=0.3):
            store.feed(batch)
        assert making.without_place(store.newest()) == expected
        assert store.statuses() == statuses
        _hold_the_outbox_in_order(store.emitted())


def _hold_the_outbox_in_order(emitted: list[examples.Example]) -> None:
    places: dict[int, list[int]] = {}
    revisions: dict[str, list[int]] = {}
    for example in emitted:
        places.setdefault(example.partition, []).append(example.sequence)
        revisions.setdefault(example.id, []).append(example.revision)
    for found in (*places.values(), *revisions.values()):
        assert found == list(range(1, len(found) + 1))


@hypothesis.given(records=logs(), order=strategies.randoms(use_true_random=False))
@hypothesis.settings(max_examples=100, deadline=None)
def test_the_fold_is_a_function_of_a_set(records: list[port.Record], order: random.Random) -> None:
    received, known = _whole(records)
    shuffled = order.sample(received, len(received))
    one, other = joining.fold(received, known), joining.fold(shuffled, known)
    assert one.standings == other.standings
    assert {head.example_id: head for head in one.heads} == {head.example_id: head for head in other.heads}


@hypothesis.given(records=logs())
@hypothesis.settings(max_examples=100, deadline=None)
def test_every_event_has_one_standing_and_every_joined_one_is_a_head(records: list[port.Record]) -> None:
    received, known = _whole(records)
    folded = joining.fold(received, known)
    assert folded.standings.keys() == {item.key for item in received}
    heads = sorted(head.counts.key for head in folded.heads)
    joined = sorted(key for key, standing in folded.standings.items() if standing.status.value == "joined")
    assert heads == joined
