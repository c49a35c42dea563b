"""What a log of feedback means, told a second time: slowly, in one pass over everything, without the ledger's code.

`test_twenty_thousand_events` compares the ledger with it. One tenant, signed ids; only the types of `core` are shared.
"""

import collections
import dataclasses
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from trimtab.core import completions, feedback, ids, text


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What counts: (feedback id, kind with texts, chain of feedback ids); and what became of each event, in numbers."""

    examples: collections.Counter[tuple[Any, ...]]
    statuses: collections.Counter[str]


def meaning(said: Sequence[feedback.FeedbackEvent], answered: Iterable[completions.Completion]) -> Meaning:
    """said: in the order of the log. Copies of an event are in it as often as they were sent."""
    known = {ids.uuid_of(completion.id): completion for completion in answered}
    statuses: collections.Counter[str] = collections.Counter()
    sessions: dict[bytes, dict[tuple[Any, str], feedback.FeedbackEvent]] = collections.defaultdict(dict)
    conflicts: set[Any] = set()
    for event in said:
        assert event.context is not None
        session = event.context.session_hash
        first = sessions[session].setdefault((_subject(event), event.id), event)
        if _body(first) != _body(event):
            conflicts.add((session, _subject(event), event.id, _body(event)))
    statuses["conflict"] = len(conflicts)
    counted: collections.Counter[tuple[Any, ...]] = collections.Counter()
    for events in sessions.values():
        for chain in _chains(list(events.values()), known, statuses):
            head = _head(chain)
            statuses["joined"] += 1
            statuses["superseded"] += len(chain) - 1
            if not isinstance(head.kind, feedback.Retraction):
                counted[head.id, spoken(head.kind, known), tuple(sorted(event.id for event in chain))] += 1
    return Meaning(counted, +statuses)


def spoken(kind: feedback.Kind, known: dict[uuid.UUID, completions.Completion]) -> str:
    """The kind with the texts of its answers in the place of their ids."""
    texts = [_text(ref, known) for ref in feedback.targets(kind)]
    match kind:
        case feedback.Thumb(up=up):
            return f"{texts} {up}"
        case feedback.Rating(stars=stars, scale=scale):
            return f"{texts} {stars} of {scale}"
        case feedback.Comparison(strength=strength, tie=tie):
            return f"{texts} {strength} {tie}"
        case feedback.Ranking(items=items):
            return f"{list(zip(texts, [item.rank for item in items], strict=True))}"
        case feedback.Edit(corrected=said) | feedback.Demonstration(response=said):
            return f"{texts} {said.read()}"
        case feedback.Critique(comment=comment, span=span):
            return f"{texts} {comment.read()} {span}"
        case feedback.Signal(signal=signal):
            return f"{texts} {signal.value}"
        case feedback.Retraction():
            return "nothing"


def _chains(
    events: list[feedback.FeedbackEvent],
    known: dict[uuid.UUID, completions.Completion],
    statuses: collections.Counter[str],
) -> list[list[feedback.FeedbackEvent]]:
    """Groups of events of one session that hang together; what waits is only counted."""
    standing = [event for event in events if _uuids(event) <= known.keys()]
    while True:
        here = {event.id for event in standing}
        kept = [event for event in standing if here.issuperset(event.supersedes)]
        if len(kept) == len(standing):
            break
        standing = kept
    statuses["waiting"] += len(events) - len(standing)
    neighbours: dict[int, set[int]] = {number: {number} for number in range(len(standing))}
    for one, event in enumerate(standing):
        linked = _replaced(event, standing)
        for other, else_ in enumerate(standing):
            if any(else_ is item for item in linked) or (_slot(event) is not None and _slot(event) == _slot(else_)):
                neighbours[one].add(other)
                neighbours[other].add(one)
    groups = []
    left = set(neighbours)
    while left:
        group: set[int] = set()
        edge = {min(left)}
        while edge:
            group |= edge
            edge = {other for number in edge for other in neighbours[number]} - group
        left -= group
        groups.append([standing[number] for number in sorted(group)])
    return groups


def _replaced(event: feedback.FeedbackEvent, among: list[feedback.FeedbackEvent]) -> list[feedback.FeedbackEvent]:
    """Those it names; where several have the name, those about a completion of its own."""
    named = [other for other in among if other is not event and other.id in event.supersedes]
    near = [other for other in named if _uuids(other) & _uuids(event)]
    return near or named


def _head(chain: list[feedback.FeedbackEvent]) -> feedback.FeedbackEvent:
    replaced = [other for event in chain for other in _replaced(event, chain)]
    heads = [event for event in chain if not any(event is other for other in replaced)] or chain
    retracted = [event for event in heads if isinstance(event.kind, feedback.Retraction)]
    # of two that agree in time and name, the later in the log
    return max(reversed(retracted or heads), key=lambda event: (event.occurred_at, event.id))


def _slot(event: feedback.FeedbackEvent) -> Any:
    """What a rater has one opinion of; None for what is no vote."""
    if isinstance(event.kind, feedback.Thumb | feedback.Rating | feedback.Comparison | feedback.Ranking):
        about = frozenset((ids.uuid_of(ref.completion_id), ref.choice) for ref in feedback.targets(event.kind))
        return type(event.kind), about, event.rater, event.criterion
    return None


def _uuids(event: feedback.FeedbackEvent) -> set[uuid.UUID]:
    return {ids.uuid_of(ref.completion_id) for ref in feedback.targets(event.kind)}


def _subject(event: feedback.FeedbackEvent) -> Any:
    return min(_uuids(event), key=lambda item: item.bytes, default=None)


def _body(event: feedback.FeedbackEvent) -> Any:
    return event.kind, event.rater, event.surface, event.criterion, event.supersedes


def _text(ref: text.ResponseRef, known: dict[uuid.UUID, completions.Completion]) -> str:
    return known[ids.uuid_of(ref.completion_id)].responses[ref.choice].text.read()
