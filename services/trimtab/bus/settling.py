"""What an operator does about dead letters: replays them, drops them, lets a halted consumer go on.

Used by `trimtab deadletter`. A replay puts the record on its own topic again, in the same partition, with a header that
says where it was refused. It may happen twice (two operators, a crash on Kafka between the record and its mark): every
consumer counts a record once, by the identity the record has, and at the place where it stood first
(`letters.first_offset`). Record, mark and audit record go in one append: whole or not at all in the embedded log, in
this order on Kafka. Blocking calls: use them from threads.
"""

import contextlib
import dataclasses
import datetime
from collections.abc import Sequence

from trimtab.bus import letters, port, publish, tail, topics
from trimtab.core import audit, clock, errors, failpoints, ids, text

_CATCH_UP_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one letter. done: whether anything was written; `words` say what, or why nothing was. open:
    whether it still is."""

    place: letters.Place
    done: bool
    words: str
    open: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Act:
    """Who acts and why. tenant: on whose audit trail it stands."""

    tenant: str
    actor: str
    reason: str

    def record(self, identity: str, act: str, target: str, at: datetime.datetime) -> port.NewRecord:
        """On the audit trail."""
        said = audit.AuditRecord(identity, text.Context(self.tenant, ""), at, self.actor, act, target, self.reason)
        return publish.new_record(topics.AUDIT, self.tenant.encode(), said)


class Desk:
    def __init__(self, log: port.EventLog, known: letters.Letters, act: Act, now: clock.Clock = clock.utc_now) -> None:
        """known: refreshed; is kept up to date with what is done here."""
        self._log = log
        self._known = known
        self._act = act
        self._now = now

    def replay(self, places: Sequence[letters.Place]) -> list[Outcome]:
        """Each place whose letter is open: its record onto its own topic again. LogUnavailable: do it again."""
        return [self._settle(place, audit.Settlement.REPLAYED) for place in dict.fromkeys(places)]

    def drop(self, places: Sequence[letters.Place]) -> list[Outcome]:
        """Marks letters as dropped; their bytes stay until retention. LogUnavailable: do it again."""
        return [self._settle(place, audit.Settlement.DROPPED) for place in dict.fromkeys(places)]

    def resume(self, consumer: str, more: int) -> None:
        """Lets a halted consumer go on, with so many letters beside its limit; WrongState when it is not halted."""
        if consumer not in self._known.halted:
            standing = ", ".join(sorted(self._known.halted)) or "none"
            raise errors.WrongState(f"Consumer {consumer!r} is not halted; halted: {standing}.")
        at, identity = self._now(), str(ids.uuid7())
        word = audit.ConsumerResumed(consumer, at, self._act.actor, self._act.reason, more, identity)
        resumed = publish.new_record(topics.DEADLETTER, consumer.encode(), word)
        self._log.append([resumed, self._act.record(identity, "deadletter.resume", consumer, at)]).result()

    def _settle(self, place: letters.Place, outcome: audit.Settlement) -> Outcome:
        entry = next((one for (at, _), one in self._known.entries.items() if at == place), None)
        if entry is None:
            raise errors.NotFound("dead letter", str(place))
        settled = self._known.settled.get(place)
        if settled is not None:
            when = f"{settled.at:%Y-%m-%d %H:%M:%S}"
            return Outcome(place, False, f"was {settled.outcome.value} at {when} by {settled.actor}: nothing done")
        again: list[port.NewRecord] = []
        if outcome is audit.Settlement.REPLAYED:
            if why := self._not_replayable(entry):
                return Outcome(place, False, why, open=True)
            again = [_again(self._known.fetch(entry))]
        act = f"deadletter.{'replay' if again else 'drop'}"
        identity = str(ids.content_uuid(act, str(place)))
        mark = audit.DeadLetterSettled(
            identity, *place, outcome=outcome, actor=self._act.actor, reason=self._act.reason, at=self._now()
        )
        marked = publish.new_record(topics.DEADLETTER, str(place).encode(), mark)
        failpoints.reach("deadletter.settle.before_append")
        try:
            self._log.append([*again, marked, self._act.record(identity, act, str(place), mark.at)]).result()
        except errors.InvalidField as problem:
            return Outcome(place, False, f"cannot be {outcome.value}: {problem}", open=True)
        failpoints.reach("deadletter.settle.appended")
        self._known.settled[place] = mark
        return Outcome(place, True, outcome.value)

    def _not_replayable(self, entry: letters.Entry) -> str:
        """Why its record cannot, or must not, stand on its topic again; empty when it may."""
        if not entry.whole:
            return f"cannot be replayed: at {entry.value_bytes} bytes only its beginning was kept; drop it"
        topic = topics.ALL[entry.place.topic]
        if topic.cleanup is topics.Cleanup.COMPACT and (newer := self._superseded(entry.place)):
            return f"must not be replayed: {newer}, and the older record would take its place; drop it"
        return ""

    def _superseded(self, place: letters.Place) -> str:
        """What has come after a record of a compacted topic under its key: of those the last one counts."""
        start = {port.TopicPartition(place.topic, place.partition): place.offset}
        key: bytes | None = None
        later = tail.Tail(self._log, topics.ALL[place.topic], within_s=_CATCH_UP_S, start=start)
        with contextlib.closing(later):
            for record in later.read():
                if record.offset == place.offset:
                    key = record.key
                elif key is None:
                    return "compaction has removed the original since a newer one of its key came"
                elif record.key == key:
                    return f"a newer one of its key stands at {letters.place_of(record)}"
        return "" if key is not None else "compaction has removed the original since a newer one of its key came"


def _again(letter: audit.DeadLetter) -> port.NewRecord:
    """The record as it was, and where it comes from."""
    place = letters.place_of(letter)
    path = " ".join((*letters.replayed_from(letter.headers), str(place)))
    headers = {**letter.headers, letters.REPLAYED_FROM: path.encode()}
    return port.NewRecord(letter.topic, letter.key, letter.value, headers, letter.partition)
