"""What clients were told, against what the log and the ledger hold afterwards. Pure.

Identity is the feedback id, a body is known by its digest. Of several bodies under one id the first in partition order
counts; of a chain its last amendment does.
"""

import collections
import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence

from tests.faults.harness import history

_OK = history.Outcome.OK
# The log was away: no OK can be true. Other faults of a history are for their rows to judge.
AWAY = "log away"
# How many names a sentence lists.
_NAMED = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """A feedback event as it stands in the log."""

    feedback_id: str
    digest: str
    partition: int
    offset: int


@dataclasses.dataclass(frozen=True, slots=True)
class Counted:
    """An example that stands: what would train."""

    feedback_id: str
    digest: str
    example_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What is there when all is over. rebuilt: what a ledger counts that was made again from the log; listed: the
    (id, digest) that a trace shows as conflicts. None: nobody looked."""

    stored: Sequence[Stored]
    counted: Sequence[Counted]
    rebuilt: Sequence[Counted] | None = None
    listed: Collection[tuple[str, str]] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """Feedback ids by what went wrong with them, in the order of the fields; and figures of the calls.

    sent, acknowledged: ids. failures, late: attempts that were not OK, and those of them that were later than the
    deadline or had no answer. copies: stored beyond the first of each body. p99_ms: of attempts that were OK.
    """

    lost: tuple[str, ...]
    duplicated: tuple[str, ...]
    invented: tuple[str, ...]
    wrong_body: tuple[str, ...]
    conflicts_counted: tuple[str, ...]
    late: tuple[str, ...]
    untrue: tuple[str, ...]
    unlisted: tuple[str, ...]
    rebuilt_otherwise: tuple[str, ...]
    sent: int
    acknowledged: int
    attempts: int
    failures: int
    copies: int
    conflicts: int
    p99_ms: float

    @property
    def findings(self) -> dict[str, tuple[str, ...]]:
        """What is wrong, by its check in words. Empty: every promise was kept."""
        every = {words: getattr(self, field) for field, words in CHECKS.items()}
        return {words: found for words, found in every.items() if found}

    @property
    def sentences(self) -> list[str]:
        return [f"{words}: {len(found)}, e.g. {', '.join(found[:_NAMED])}" for words, found in self.findings.items()]


CHECKS = {
    "lost": "acknowledged and lost",
    "duplicated": "counted more than once",
    "invented": "there without having been sent",
    "wrong_body": "counted with another body than the first",
    "conflicts_counted": "counted with two bodies",
    "late": "no answer within the deadline",
    "untrue": "OK while the log was away",
    "unlisted": "conflict that no trace shows",
    "rebuilt_otherwise": "counted otherwise after a rebuild",
}


def check(told: history.Told, found: Found, *, deadline_s: float) -> Verdict:
    """deadline_s: within which every attempt must have its answer."""
    attempts = told.attempts
    acknowledged = {one.feedback_id for one in attempts if one.outcome is _OK}
    invoked = {(one.feedback_id, one.digest) for one in attempts}
    first = _first_of_each_id(found.stored)
    there = collections.Counter((one.feedback_id, one.digest) for one in found.stored)
    superseded = {old for new, old in told.amends.items() if new in first and old in first}
    bodies = _bodies(found.counted)
    failures = [one for one in attempts if one.outcome is not _OK]
    unsaid = {(one.feedback_id, one.digest) for one in attempts if one.outcome is _OK} - there.keys()
    uncounted = acknowledged - superseded - bodies.keys()
    conflicts = {pair for pair in there if first[pair[0]] != pair[1]}
    invented = (there.keys() | {(one.feedback_id, one.digest) for one in found.counted}) - invoked
    return Verdict(
        lost=_sorted({name for name, _ in unsaid} | uncounted),
        duplicated=_sorted(name for name, of in bodies.items() if max(of.values()) > 1 or name in superseded),
        invented=_sorted(name for name, _ in invented),
        wrong_body=_sorted(name for name, of in bodies.items() if name in first and of.keys() - {first[name]}),
        conflicts_counted=_sorted(name for name, of in bodies.items() if len(of) > 1),
        late=_sorted(one.feedback_id for one in failures if one.took > deadline_s),
        untrue=_sorted(one.feedback_id for one in attempts if _is_untrue(one, told.faults)),
        unlisted=_sorted(name for name, _ in conflicts - set(found.listed)) if found.listed is not None else (),
        rebuilt_otherwise=_different(found.counted, found.rebuilt) if found.rebuilt is not None else (),
        sent=len({name for name, _ in invoked}),
        acknowledged=len(acknowledged),
        attempts=len(attempts),
        failures=len(failures),
        copies=sum(there.values()) - len(there),
        conflicts=len(conflicts),
        p99_ms=1000 * _percentile([one.took for one in attempts if one.outcome is _OK], 0.99),
    )


def recovery_s(told: history.Told, what: str) -> float:
    """Seconds from the end of the last fault of this kind until a record was acknowledged; infinite when none was."""
    over = max((fault.ended for fault in told.faults if fault.what == what), default=math.inf)
    answers = (one.ended for one in told.attempts if one.outcome is _OK and not one.duplicate)
    return min((at - over for at in answers if at is not None and at > over), default=math.inf)


def p99_ms(told: history.Told, what: str) -> float:
    """Of the attempts that were begun during a fault of this kind and were OK."""
    spans = [(fault.began, fault.ended) for fault in told.faults if fault.what == what]
    took = [
        one.took
        for one in told.attempts
        if one.outcome is _OK and any(began <= one.began <= ended for began, ended in spans)
    ]
    return 1000 * _percentile(took, 0.99)


def _first_of_each_id(stored: Sequence[Stored]) -> dict[str, str]:
    """The digest that counts: copies of an id share a partition, so offsets order them."""
    first: dict[str, str] = {}
    for one in sorted(stored, key=lambda one: (one.partition, one.offset)):
        first.setdefault(one.feedback_id, one.digest)
    return first


def _bodies(counted: Sequence[Counted]) -> Mapping[str, collections.Counter[str]]:
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for one in counted:
        found[one.feedback_id][one.digest] += 1
    return found


def _is_untrue(attempt: history.Attempt, faults: Sequence[history.Fault]) -> bool:
    """An OK that was asked for and given while nothing could be stored; a replica may repeat one of before."""
    return (
        attempt.outcome is _OK
        and not attempt.duplicate
        and attempt.ended is not None
        and any(
            fault.what == AWAY and fault.began <= attempt.began and attempt.ended <= fault.ended for fault in faults
        )
    )


def _different(one: Sequence[Counted], other: Sequence[Counted]) -> tuple[str, ...]:
    return _sorted(example.feedback_id for example in set(one) ^ set(other))


def _percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank; NaN of nothing."""
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else math.nan


def _sorted(names: Collection[str] | collections.abc.Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


# Of a run that came to nothing.
NOTHING = check(history.Told((), (), {}), Found((), ()), deadline_s=0.0)
