"""The rows of faults that hit ingestion: what is done to a world at work, and what is asked of it afterwards.

Each row is a function of a world; `play` runs one and makes the line of the table. What every row asks is in `checker`.
"""

import contextlib
import dataclasses
import fcntl
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.faults.harness import checker, consumers, disks, history, load, proxy, subjects, world

from trimtab.core import errors

AWAY = checker.AWAY
# Acknowledged votes between two kills, at least.
_BETWEEN = 20
_DIES_WITHIN_S = 60.0
_LEDGER_DIES = 4
_LOOK_S = 0.02
# After so many appends, or commits, a replica dies: more than the votes between two kills.
_LIVES = (40, 100)
_RECOVERY_S = 10.0
_RSS_GROWTH_MIB = 64.0
_LATENCY_S, _RESETS = 0.2, 0.05
_JUMPS_S = (3600.0, -3600.0, 0.0)
_DISK_MIB = 48


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """What became of one row on one log. problems: what did not hold, in sentences; notes: what was seen besides."""

    number: int
    log: str
    fault: str
    kills: int
    verdict: checker.Verdict
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    seed: int
    seconds: float
    folder: str = ""

    @property
    def held(self) -> bool:
        return not self.problems and not self.verdict.findings


_Seen = world.Seen


def killed_log(of: world.World, seen: _Seen) -> None:
    """1: what takes the record is killed: the broker, sometimes after it hung; on SQLite the process that writes."""
    of.prepare(2)
    read: list[int] = []

    def killed() -> None:
        read.append(of.readable())
        of.await_votes(_BETWEEN)

    if of.broker is None:
        _walk(of, ["bus.write.before_commit", "", "bus.write.committed", "feedback.intake.before_append"], killed)
    else:
        of.start()
        of.play(load.Mix(), lambda: _kill_broker(of, of.broker, killed))
    seen.require(read == sorted(read), f"A start found fewer records than the one before: {read}.")
    seen.notes.append(f"log read from its beginning after each of {len(read)} starts")


def _kill_broker(of: world.World, broker: subjects.Broker | None, killed: Callable[[], None]) -> None:
    assert broker is not None
    of.await_votes(_BETWEEN)
    for number in range(1 if of.mutant else of.size.kills):  # a wrong design shows at the first, which hung
        time.sleep(of.rng.uniform(0.0, 1.0))
        if number % 2 == 0:  # it hangs before it dies
            broker.node.pause()
            time.sleep(of.rng.uniform(0.1, 0.4))
        broker.kill()
        broker.start()
        killed()


class _Turn(NamedTuple):
    """subject dies at the nth time that it comes to the point; without a point, it is killed at any moment."""

    subject: subjects.Subject
    point: str
    nth: int


def _walk(of: world.World, points: list[str], killed: Callable[[], None], ledger: tuple[str, ...] = ()) -> None:
    """Kills replicas in turn, each where it was told to die or, without a point, at any moment; and so the ledger."""
    plan = [
        _Turn(of.replicas[number % 2], points[number % len(points)], of.rng.randint(*_LIVES))
        for number in range(of.size.kills)
    ]
    if ledger:
        turns = [
            _Turn(of.ledger, ledger[number % len(ledger)], of.rng.randint(1, 3))
            for number in range(min(of.size.kills, _LEDGER_DIES))
        ]
        plan = [one for both in itertools.zip_longest(plan, turns) for one in both if one is not None]

    def failpoint(subject: subjects.Subject) -> str:
        """Where it dies next."""
        turn = next((one for one in plan if one.subject is subject), None)
        return f"{turn.point}:{turn.nth}" if turn and turn.point else ""

    def script() -> None:
        while plan:
            turn = _next_death(of, plan)
            plan.remove(turn)
            turn.subject.start(failpoint(turn.subject))
            turn.subject.await_serving()
            killed()

    of.start([failpoint(subject) for subject in of.everyone])
    of.play(load.Mix(), script)


def _next_death(of: world.World, plan: Sequence[_Turn]) -> _Turn:
    """Of the first in the plan, or of one that has come to its point before: without it the first may never die."""
    first = plan[0]
    if not first.point:
        time.sleep(of.rng.uniform(0.2, 1.0))
        first.subject.kill()
        return first
    armed = {turn.subject.name: turn for turn in reversed(plan)}  # the next of each
    give_up_at = time.monotonic() + _DIES_WITHIN_S
    while time.monotonic() < give_up_at:
        for turn in armed.values():
            if turn.point and turn.subject.await_death(_LOOK_S):
                return turn
    raise subjects.Failed(f"{first.subject.name} never came to {first.point}.")


def lost_replies(of: world.World, seen: _Seen) -> None:
    """3: a replica is killed after the log's acknowledgement and before the reply; the ledger around its commit."""
    of.prepare(2)
    ledger = ("ledger.consume.before_commit", "ledger.consume.committed")
    _walk(of, ["feedback.intake.appended"], lambda: of.await_votes(_BETWEEN), ledger)
    seen.copies = True


def copies(of: world.World, seen: _Seen) -> None:
    """4: everything is sent three times, to different replicas, 1 % with another body; then the ledger is rebuilt."""
    of.prepare(3)
    of.start()
    of.play(load.Mix(copies=3), lambda: None)
    seen.rebuild = True


def paused_log(of: world.World, seen: _Seen) -> None:
    """5: the log is away: the broker is stopped, then cut off; on SQLite somebody holds the lock and does not go on."""
    of.prepare(2, proxied=True)
    of.start()
    grown: list[float] = []

    def script() -> None:
        of.await_votes(5 * _BETWEEN)
        before = [one.rss_mib() for one in of.replicas]

        def wait(seconds: float) -> None:
            give_up_at = time.monotonic() + seconds
            while time.monotonic() < give_up_at:
                grown.append(max(now.rss_mib() - was for now, was in zip(of.replicas, before, strict=True)))
                time.sleep(0.2)

        _take_away(of, wait)
        of.await_votes(5 * _BETWEEN)

    of.play(load.Mix(), script, at_once=64)
    told = history.read(of.folder / "history.jsonl")
    recovery = checker.recovery_s(told, AWAY)
    failed = sum(one.outcome is not history.Outcome.OK for one in told.attempts)
    seen.require(failed > 0, "No attempt failed: the fault was not felt.")
    seen.require(recovery < _RECOVERY_S, f"The next OK came {recovery:.1f} s after the log was back.")
    seen.require(max(grown) < _RSS_GROWTH_MIB, f"A replica grew by {max(grown):.0f} MiB.")
    seen.notes.append(f"away {of.size.away_s:.0f} s, back after {recovery:.1f} s, grew {max(grown):.1f} MiB at most")


def _take_away(of: world.World, wait: Callable[[float], None]) -> None:
    """Nothing can be stored from the first mark to the second."""
    if of.broker is None:
        with of.log_file.with_name(f"{of.log_file.name}.write").open("rb") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            with of.history.lasting(AWAY):
                wait(of.size.away_s)
        return
    of.broker.node.pause()
    try:
        with of.history.lasting(AWAY):
            wait(of.size.away_s / 2)
            of.link.cut()
            of.broker.node.resume()
            wait(of.size.away_s / 2)
    finally:
        of.broker.node.resume()
        of.link.mend()


def bad_link(of: world.World, seen: _Seen) -> None:
    """6: 200 ms more to the broker, and 5 % of what is sent meets a reset; on SQLite, between users and replicas."""
    of.prepare(2, proxied=True)
    of.start()
    with contextlib.ExitStack() as opened:
        links = [of.link]
        if of.broker is None:
            links = [proxy.Proxy(of.seed, int(one.address.rpartition(":")[2])) for one in of.replicas]
            for link in links:
                opened.callback(link.close)
            of.doors = [f"127.0.0.1:{link.port}" for link in links]
        for link in links:
            link.latency_s, link.resets = _LATENCY_S, _RESETS
        before = sum(link.broken for link in links)
        try:
            of.play(load.Mix(), lambda: None)
        finally:
            for link in links:
                link.latency_s = link.resets = 0.0
        broken = sum(link.broken for link in links) - before
    seen.require(broken > 0, "No connection was reset: the fault was not felt.")
    seen.notes.append(f"{broken} connections reset")


def full_disk(of: world.World, seen: _Seen) -> None:
    """10: the disk of the embedded log is full, and then it is not."""
    with disks.small(of.folder / "disk", _DISK_MIB) as disk:
        of.log_file = disk / "log.db"
        of.prepare(2)
        of.start()

        def script() -> None:
            of.await_votes(5 * _BETWEEN)
            disks.fill(disk / "ballast")
            of.history.begin("disk full")
            _await_failures(of)
            time.sleep(min(of.size.away_s, 10.0))
            of.history.end("disk full")
            (disk / "ballast").unlink()
            of.await_votes(5 * _BETWEEN)

        of.play(load.Mix(), script)
        told = history.read(of.folder / "history.jsonl")
        recovery = checker.recovery_s(told, "disk full")
        seen.require(recovery < _RECOVERY_S, f"The next OK came {recovery:.1f} s after there was space again.")
        seen.notes.append(f"a disk of {_DISK_MIB} MiB, back after {recovery:.1f} s")
        _finish(of, seen)


def _await_failures(of: world.World, within_s: float = 60.0) -> None:
    """Returns when the log has refused something for want of space."""
    give_up_at = time.monotonic() + within_s
    while time.monotonic() < give_up_at:
        told = history.read(of.folder / "history.jsonl")
        if any(one.reason == "LOG_UNAVAILABLE" for one in told.attempts):
            return
        time.sleep(0.3)
    raise subjects.Failed("The disk was full and every vote was taken all the same.")


def jumping_clocks(of: world.World, seen: _Seen) -> None:
    """17: the clocks of replicas and ledger jump by an hour, each for itself, while a lease is held."""
    of.prepare(2, clocks=True)
    of.start()
    over, wrong = threading.Event(), []
    jumps = [(subject, of.rng.sample(_JUMPS_S, len(_JUMPS_S))) for subject in of.everyone]

    def script() -> None:
        lease = threading.Thread(target=lambda: wrong.extend(of.contend(over)))
        lease.start()
        try:
            for number in range(of.size.kills):
                of.await_votes(_BETWEEN)
                for subject, order in jumps:
                    subject.set_clock(order[number % len(order)])
                time.sleep(of.rng.uniform(0.5, 1.0))
        finally:
            over.set()
            lease.join()

    of.play(load.Mix(), script)
    seen.problems += wrong
    seen.notes.append(f"{of.size.kills} jumps of every clock")


FAULTS: dict[int, tuple[str, Callable[[world.World, _Seen], None], tuple[str, ...]]] = {
    1: ("kill -9 of what stores", killed_log, ("sqlite", "kafka")),
    3: ("kill -9 between the log's OK and the reply", lost_replies, ("sqlite", "kafka")),
    4: ("three copies to three replicas, 1 % with another body", copies, ("sqlite", "kafka")),
    5: ("log unreachable", paused_log, ("sqlite", "kafka")),
    6: ("200 ms and 5 % resets on the link", bad_link, ("sqlite", "kafka")),
    10: ("disk full", full_disk, ("sqlite",)),
    17: ("clocks jump by an hour", jumping_clocks, ("sqlite", "kafka")),
}
FAULTS = dict(sorted((FAULTS | consumers.FAULTS).items()))


def play(number: int, of: world.World) -> Row:
    """One row on one log, from nothing to its line."""
    fault, act, _ = FAULTS[number]
    seen, begun = _Seen(), time.monotonic()
    try:
        act(of, seen)
        if of.verdict is None:
            _finish(of, seen)
    except (subjects.Failed, errors.LogUnavailable) as problem:
        seen.problems.append(str(problem))
    verdict = of.verdict or checker.NOTHING
    kills = sum(one.kills for one in of.everyone) if of.replicas else 0
    kills += of.broker.kills - of.broker_kills if of.broker else 0
    row = Row(
        number=number,
        log=of.log_kind,
        fault=fault,
        kills=kills,
        verdict=verdict,
        problems=tuple(seen.problems),
        notes=tuple(seen.notes),
        seed=of.seed,
        seconds=time.monotonic() - begun,
        folder=str(of.folder),
    )
    of.kept = not row.held and not of.mutant
    return row


def _finish(of: world.World, seen: _Seen) -> None:
    """Waits for the ledger, looks what is there, and checks it."""
    of.settled()
    found = of.found()
    found = dataclasses.replace(found, listed=of.listed_conflicts(found))
    if seen.rebuild:
        found = dataclasses.replace(found, rebuilt=of.rebuilt())
    told = history.read(of.folder / "history.jsonl")
    of.verdict = checker.check(told, found, deadline_s=world.DEADLINE_S[of.log_kind])
    seen.require(of.verdict.sent >= of.size.votes, f"Only {of.verdict.sent} were sent.")
    if seen.copies:
        seen.require(of.verdict.copies > 0, "No reply was lost: nothing stands in the log twice.")
