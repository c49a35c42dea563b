"""The rows of faults that hit what reads the log: a trainer that cannot keep up, records that nothing can handle."""

import asyncio
import collections
import dataclasses
import time
from collections.abc import Callable, Mapping

from tests.faults import poison
from tests.faults.harness import checker, history, load, poisoning, subjects, world

import trimtab_client
from trimtab.bus import port, topics
from trimtab.core import errors, ledger
from trimtab.wire import calls

_EASE, _SLOW = "the trainer at its own pace", "a slow trainer"
# It handles one of so many that come.
_TIMES_SLOWER = 10
_LOOK_S = 0.3
# Of how long a time a percentile says enough to be judged.
_JUDGED_S = 300.0
_P99_RATIO = 1.2
_RSS_GROWTH_MIB = 64.0
_BETWEEN = 20
# Of a hundred votes one is poison.
_VALID = 99
_DEPLOYED = 400
_STARTS = 2
_HALTS_WITHIN_S = 60.0


def slow_trainer(of: world.World, seen: world.Seen) -> None:
    """7: the trainer handles a tenth of what comes: its gauge says how far behind it is, and nobody else feels it."""
    seconds = of.size.slow_s
    of.prepare(2, trainer=True, answers=int(of.size.rate * seconds / 5) + 400)
    assert of.trainer is not None
    trainer = of.trainer
    trainer.set_pace(0.0)
    of.start()
    looks: list[_Look] = []
    grown: list[float] = []

    def script() -> None:
        of.await_votes(_BETWEEN)
        with of.history.lasting(_EASE):
            time.sleep(min(seconds, 60.0))
        before = {subject.name: subject.rss_mib() for subject in of.everyone}
        trainer.set_pace(_TIMES_SLOWER / of.size.rate)
        with of.history.lasting(_SLOW), of.opened() as log:
            over, gauge = time.monotonic() + seconds, _Gauge(of, log, trainer)
            while time.monotonic() < over:
                looks.append(gauge.look())
                grown.extend(subject.rss_mib() - before[subject.name] for subject in of.everyone)
                time.sleep(_LOOK_S)
        trainer.set_pace(0.0)

    of.play(load.Mix(), script, at_once=64)
    told = history.read(of.folder / "history.jsonl")
    ease, slow = checker.p99_ms(told, _EASE), checker.p99_ms(told, _SLOW)
    wrong = [look for look in looks if not look.right]
    seen.require(not wrong, f"The gauge was wrong in {len(wrong)} of {len(looks)} looks, e.g. {wrong[:1]}.")
    seen.require(any(look.least > 0 for look in looks), "The trainer was never behind: the fault was not felt.")
    seen.require(max(grown) < _RSS_GROWTH_MIB, f"A process grew by {max(grown):.0f} MiB.")
    if seconds >= _JUDGED_S:
        seen.require(slow <= _P99_RATIO * ease, f"p99 rose from {ease:.0f} to {slow:.0f} ms.")
    right, most = len(looks) - len(wrong), max(look.said for look in looks)
    seen.notes.append(
        f"{seconds:.0f} s slow, lag up to {most:.0f} and right in {right} of {len(looks)} looks, "
        f"p99 {ease:.0f} ms before and {slow:.0f} ms ({slow / ease:.2f} times), grew {max(grown):.1f} MiB at most"
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Look:
    """What the gauge said, and between which figures it had to be."""

    said: float
    least: int
    most: int

    @property
    def right(self) -> bool:
        return self.least <= self.said <= self.most


class _Gauge:
    """The trainer's lag as its page says it, against what its store and the log hold: at most a poll apart, for the
    store has a poll before the process knows that it has."""

    def __init__(self, of: world.World, log: port.EventLog, trainer: subjects.Subject) -> None:
        self._of, self._log, self._trainer = of, log, trainer
        self._stands, self._stood = 0, 0

    def look(self) -> _Look:
        self._read()
        before, ends = self._stood, self._ends()
        said = self._trainer.figure("trimtab_consumer_lag_records", consumer="trainer")
        self._read()
        return _Look(said, least=ends - self._stands, most=self._ends() - before)

    def _read(self) -> None:
        """Where it stands, and where it stood a poll or more before."""
        stands = sum(self._of.trainer_stands().values())
        if stands != self._stands:
            self._stood, self._stands = self._stands, stands

    def _ends(self) -> int:
        return sum(self._log.end_offsets(topics.EXAMPLES.name).values())


def poisoned(of: world.World, seen: world.Seen) -> None:
    """8: one record in a hundred cannot be handled: it has its letter, and nothing else is different."""
    of.prepare(2)
    of.start()
    votes = max(of.size.votes, (_VALID + 1) * len(poison.REASONS))

    def script() -> None:
        with of.opened() as log:
            for _ in range(votes // (_VALID + 1)):
                of.await_votes(_VALID)
                of.poison.add(log)

    of.play(load.Mix(), script, votes=votes)
    of.settled()
    with of.opened() as log:
        seen.problems += of.poison.problems(log)
        seen.require(all(one.lives == 1 for one in of.everyone), "A process was started again.")
        counted = len(of.found().counted)
        # read by the same version they are refused again, each with a letter of its own
        again = sum(one.done for one in poisoning.replay(log))
        of.settled()
        seen.problems += of.poison.problems(log)
        seen.require(again == len(of.poison) - of.poison.of_kind("huge"), f"{again} letters were replayed.")
        of.ledger.upgrade()
        _replay_twice(of, seen, log)
    readable = of.poison.of_kind(poisoning.NEWER)
    _require_once(of, seen, readable)
    seen.require(len(of.found().counted) == counted, "A replay changed what counts of other votes.")
    seen.notes.append(
        f"{len(of.poison)} poisoned, {again} replayed and refused again, {readable} read by the next version"
    )


def all_poisoned(of: world.World, seen: world.Seen) -> None:
    """9: everything that comes is of a version that the ledger does not read: it halts, and goes on when it does."""
    of.prepare(2)
    of.start()
    stood: list[tuple[object, ...]] = []

    def script() -> None:
        of.await_votes(_BETWEEN)
        with of.opened() as log:
            of.poison.add(log, [poisoning.NEWER] * _DEPLOYED)
            for start in range(_STARTS):
                if start:  # who starts it again does not make it go on
                    of.ledger.kill()
                    of.ledger.start()
                stood.append(_halted(of, seen, log))
            of.await_votes(_BETWEEN)
            of.ledger.upgrade()

    of.play(load.Mix(), script)
    of.settled()
    with of.opened() as log:
        seen.require(len(set(stood)) == 1, f"It stood elsewhere, or wrote more, after another start: {stood}")
        seen.require(poisoning.halted(log) is None, "It reads on and still says that it stands still.")
        seen.require(
            of.ledger.figure("trimtab_consumer_halted", consumer=poisoning.CONSUMER) == 0.0, "The alarm stays on."
        )
        _replay_twice(of, seen, log)
    _require_once(of, seen, _DEPLOYED)
    seen.notes.append(f"halted after {stood[0][1]} letters before {_DEPLOYED} records, the same at {_STARTS} starts")


def _halted(of: world.World, seen: world.Seen, log: port.EventLog) -> tuple[object, ...]:
    """Where it stands still and how many letters there are, once it says so everywhere."""
    gives_up_at = time.monotonic() + _HALTS_WITHIN_S
    of.ledger.await_serving()
    while of.ledger.figure("trimtab_consumer_halted", consumer=poisoning.CONSUMER) != 1.0:
        if time.monotonic() > gives_up_at:
            raise subjects.Failed(f"No alarm: see {of.ledger.said}")
        time.sleep(0.1)
    halted, refused = poisoning.halted(log), poisoning.written(log)
    if halted is None:
        raise subjects.Failed("The alarm is on, and topic `deadletter` knows of no halt.")
    why = asyncio.run(_no_evidence(of))
    seen.require("There is no evidence while the ledger reads nothing." in why, f"It says of evidence: {why!r}.")
    seen.require("version '2'; this version reads up to 1" in halted.reason, f"It halted for {halted.reason!r}.")
    source = port.TopicPartition(halted.topic, halted.partition)
    stands = of.ledger_stands().get(source, 0)
    seen.require(stands == halted.offset, f"It halted at {halted.offset} of {source} and stands at {stands}.")
    return (source, refused, halted.offset)


async def _no_evidence(of: world.World) -> str:
    async with trimtab_client.connect(of.ledger.address, of.secrets.internal_token) as channel:
        try:
            await calls.LedgerCalls(channel).evidence(ledger.EvidenceRequest(load.TENANT, "rel", 60.0))
        except errors.ServiceUnavailable as problem:
            return str(problem)
    return "here it is"


def _replay_twice(of: world.World, seen: world.Seen, log: port.EventLog) -> None:
    """What is readable by now is replayed, and then replayed again, which does nothing."""
    for number in range(2):
        done = sum(one.done for one in poisoning.replay(log, "version '2'"))
        seen.require((done > 0) == (number == 0), f"Replay {number + 1} did something about {done} letters.")
        of.settled()


def _require_once(of: world.World, seen: world.Seen, readable: int) -> None:
    counts: Mapping[str, int] = collections.Counter(of.antidotes())
    seen.require(len(counts) == readable, f"Of {readable} votes that can be read by now {len(counts)} count.")
    seen.require(max(counts.values(), default=0) <= 1, "A replayed vote counts twice.")


FAULTS: dict[int, tuple[str, Callable[[world.World, world.Seen], None], tuple[str, ...]]] = {
    7: ("a trainer ten times slower than votes come", slow_trainer, ("sqlite", "kafka")),
    8: ("1 % poison", poisoned, ("sqlite", "kafka")),
    9: ("100 % poison", all_poisoned, ("sqlite", "kafka")),
}
