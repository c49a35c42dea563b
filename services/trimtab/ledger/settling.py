"""Brings the tables in line with a batch of records: stores them, folds the sessions they touch, emits what changed.

Called by `consumer` inside one transaction a batch, and by `restoring` for everything at once. The rules are in
`joining` and `assembling`; this is where they meet the store.
"""

import dataclasses
from collections.abc import Sequence

import sqlalchemy as sa

from trimtab.core import feedback
from trimtab.ledger import answers, assembling, events, joining
from trimtab.ledger.store import completions as completion_store
from trimtab.ledger.store import examples as example_store
from trimtab.ledger.store import feedback as feedback_store
from trimtab.ledger.store import rows

SCOPES_AT_ONCE = 250


@dataclasses.dataclass(slots=True)
class Batch:
    """Records of both topics that go into one transaction, decoded."""

    answered: list[completion_store.Arrival] = dataclasses.field(default_factory=list)
    said: list[feedback_store.Arrival] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True)
class _Changes:
    """What a fold asks to be written about examples. confirmed: made again, and the same."""

    connection: sa.Connection
    sequences: example_store.Sequences
    made: list[example_store.Made] = dataclasses.field(default_factory=list)
    confirmed: list[example_store.Made] = dataclasses.field(default_factory=list)


class Settler:
    """Used by one thread; remembers what it read last."""

    def __init__(self) -> None:
        self._completions = completion_store.Completions()
        self._feedback = feedback_store.Feedback()

    def store(self, connection: sa.Connection, batch: Batch) -> set[joining.Scope]:
        """Takes in the records, and returns the scopes that must be folded again; `settle` writes what was said."""
        arrived = self._completions.add(connection, batch.answered)
        touched = self._feedback.about(connection, arrived)
        if batch.said:
            wanted = feedback_store.uuids_of(received for _, received in batch.said)
            touched |= self._feedback.add(connection, batch.said, self._completions.load(connection, wanted))
        return touched

    def settle(self, connection: sa.Connection, scopes: set[joining.Scope]) -> int:
        """Folds these scopes, writes events with what became of them, emits examples. Returns how many were emitted.

        Some at a time, in an order of their own: a batch touches as many sessions as it has records, and of each
        session all that was ever said is read.
        """
        emitted = sum(self._settle(connection, set(piece)) for piece in rows.pieces(sorted(scopes), SCOPES_AT_ONCE))
        self._feedback.write(connection)
        return emitted

    def _settle(self, connection: sa.Connection, scopes: set[joining.Scope]) -> int:
        stored = self._feedback.of_scopes(connection, scopes)
        received = [item for item, _, _ in stored]
        known = self._completions.load(connection, feedback_store.uuids_of(received))
        folded = joining.fold(received, known)
        verdicts = {}
        for item, standing, line in stored:
            verdict = folded.standings[item.key], _line_of(item, known, line)
            if verdict != (standing, line):
                verdicts[item.key] = verdict
        self._feedback.judge(connection, verdicts)
        return self._emit(connection, scopes, folded.heads, known)

    def forget(self) -> None:
        """After a transaction that did not commit."""
        self._completions.forget()
        self._feedback.forget()

    def _emit(
        self,
        connection: sa.Connection,
        scopes: set[joining.Scope],
        heads: Sequence[joining.Head],
        known: answers.Answers,
    ) -> int:
        stored = example_store.of_sessions(connection, scopes)
        changes = _Changes(connection, example_store.Sequences(connection))
        for head in sorted(heads, key=lambda head: (head.counts.partition, head.counts.offset, head.example_id)):
            _revise(head, assembling.about(head, known), stored.get(head.example_id), changes)
        gone = stored.keys() - {head.example_id for head in heads}
        for item in sorted(example_id for example_id in gone if not stored[example_id].withdrawn):
            _withdraw(stored[item], changes)
        example_store.write(connection, changes.made)
        example_store.confirm(connection, changes.confirmed)
        changes.sequences.save()
        return len(changes.made)


def _revise(
    head: joining.Head,
    said: assembling.About,
    stored: example_store.Newest | None,
    changes: _Changes,
) -> None:
    """A new revision, when the example is not what it was."""
    state = assembling.state_of(head)
    if stored is not None and stored.state == state:
        return
    if stored is None and head.withdrawn:
        return
    vote = _vote(head, said)
    if stored is not None and stored.state is None:
        place = assembling.Place(stored.partition, stored.sequence, stored.revision)
        again = assembling.assemble(head, said, place)
        if example_store.current(changes.connection, [stored]) == [again]:
            changes.confirmed.append(example_store.Made(again, state, vote))
            return
    partition = example_store.partition_of(assembling.context_of(head, said).session_hash)
    place = assembling.Place(partition, changes.sequences.take(partition), stored.revision + 1 if stored else 1)
    changes.made.append(example_store.Made(assembling.assemble(head, said, place), state, vote))


def _withdraw(
    stored: example_store.Newest,
    changes: _Changes,
) -> None:
    """An example whose chain became part of another one."""
    [last] = example_store.current(changes.connection, [stored])
    withdrawn = dataclasses.replace(
        last,
        kind=None,
        withdrawn=True,
        prompt=(),
        sequence=changes.sequences.take(stored.partition),
        revision=stored.revision + 1,
    )
    changes.made.append(example_store.Made(withdrawn, b""))


def _line_of(received: events.Received, known: answers.Answers, line: str) -> str:
    """The line its completion was made on; what the event itself says until that is known."""
    found = (known.get(target.uuid, {}).get(received.tenant) for target in received.targets)
    return next((answer.context.line for answer in found if answer is not None), line)


def _vote(head: joining.Head, said: assembling.About) -> example_store.Vote | None:
    outcome = _outcome(head)
    if outcome is None:
        return None
    event, answer = head.counts.event, said[0]
    exposed = bool(answer.release_id and answer.arm)
    return example_store.Vote(
        outcome,
        rows.to_us(event.occurred_at),
        event.rater.id,
        event.rater.network,
        answer.policy_id or None,
        answer.release_id if exposed else None,
        answer.arm.value if exposed and answer.arm else None,
    )


def _outcome(head: joining.Head) -> float | None:
    """A vote in [0, 1]: what of feedback is evidence. A model may teach; what is released is for people to say."""
    event = head.counts.event
    if head.withdrawn or event.rater.kind is feedback.RaterKind.MODEL:
        return None
    match event.kind:
        case feedback.Thumb(up=up):
            return float(up)
        case feedback.Rating(stars=stars, scale=scale):
            return (stars - 1) / (scale - 1)
        case _:
            return None
