"""Records among the votes that no consumer can handle, put there by another program: what is known of them."""

import collections
import contextlib
from collections.abc import Iterable, Iterator, Sequence

from tests.faults import poison, reading

from trimtab.bus import letters, port, publish, settling, topics

CONSUMER = "ledger"
NEWER = "newer version"
_TENANT = "acme"


class Poison:
    """Known by its bytes: where it stands nobody may have been told. names: of the votes that were spoilt."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._kinds: dict[bytes, str] = {}

    def __len__(self) -> int:
        return len(self._kinds)

    def add(self, log: port.EventLog, kinds: Sequence[str] = ()) -> None:
        """One of each kind, beside the answers they are about; the next kind in turn unless told which.

        LogUnavailable: they may be there or not.
        """
        every = [*poison.REASONS]
        records = []
        for kind in kinds or [every[len(self) % len(every)]]:
            answer, vote = poison.vote_and_answer(len(self))
            bad = poison.poisoned(kind, vote)
            self.names.add(vote.id)
            self._kinds[bad.value] = kind
            records += [publish.new_record(topics.COMPLETIONS, bad.key, answer), bad]
        poison.append(log, records)

    def without(self, records: Iterable[port.Record]) -> Iterator[port.Record]:
        return (record for record in records if record.value not in self._kinds)

    def problems(self, log: port.EventLog) -> list[str]:
        """Whether each is refused for its reason, and nothing else is, in sentences."""
        there = {letters.place_of(record): record for record in reading.records(log, topics.FEEDBACK)}
        bad = {place: self._kinds[record.value] for place, record in there.items() if record.value in self._kinds}
        found = {place: entry for (place, consumer), entry in _known(log).entries.items() if consumer == CONSUMER}
        wrong = [f"The {kind} at {place} has no letter." for place, kind in bad.items() if place not in found]
        wrong += [f"A valid record has a letter: {found[place].reason}" for place in found.keys() - bad.keys()]
        return wrong + [
            f"The letter of the {bad[place]} at {place} says {entry.reason!r}."
            for place, entry in found.items()
            if place in bad and poison.REASONS[bad[place]] not in entry.reason
        ]

    def of_kind(self, kind: str) -> int:
        return collections.Counter(self._kinds.values())[kind]


def replay(log: port.EventLog, matching: str = "") -> list[settling.Outcome]:
    """What an operator does about all letters whose reason has these words, the settled ones too."""
    known = _known(log)
    places = [place for (place, _), entry in known.entries.items() if matching in entry.reason]
    return settling.Desk(log, known, settling.Act(_TENANT, "ada", "it is read by now")).replay(places)


def halted(log: port.EventLog) -> letters.audit.ConsumerHalted | None:
    """How the ledger stands still, if it does."""
    return _known(log).halted.get(CONSUMER)


def written(log: port.EventLog) -> int:
    """How many records were refused."""
    return len(_known(log).entries)


def _known(log: port.EventLog) -> letters.Letters:
    with contextlib.closing(letters.Letters(log)) as known:
        known.refresh()
        return known
