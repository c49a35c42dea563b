"""Half an hour of everything at once, on the processes that take in feedback and train on it: `make soak`.

    python -m tests.faults.harness.soak                 30 minutes each with seeds 1, 2 and 3
    python -m tests.faults.harness.soak --short         three minutes with seed 1
    python -m tests.faults.harness.soak --seed 7        30 minutes with this seed

Three replicas of `feedback`, a ledger, a trainer and its training jobs on a Kafka of one node; users vote, each vote
sent to two replicas, while `weather` has its way and one record in a hundred is poison. Afterwards what every row of
the harness asks is asked, every vote has to be in the last data set once, the last run and those that were disturbed
most are run again and compared byte by byte, and no process may have grown (`growth`). A line a minute, a table at the
end, exit code 0 only if everything held. A whole run writes its section of docs/benchmarks/faults.md.
"""

import argparse
import collections
import contextlib
import dataclasses
import datetime
import math
import pathlib
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from tests.benchmarks import pages
from tests.faults import reading
from tests.faults.harness import app, checker, growth, history, load, proxy, subjects, tables, trainings, weather, world

from trimtab.bus import topics
from trimtab.core import errors, examples, models
from trimtab.obs import logging

_SEEDS = (1, 2, 3)
_RATE = 30.0
_REPLICAS = 3
# Of two hundred attempts one hundred are votes, and one record more is poison.
_VALID = 99
# The log's deadline, the longest pause of a process, and room for a busy machine.
_ANSWERED_WITHIN_S = world.DEADLINE_S["kafka"] + 20.0
_MINUTE_S = 60.0
_COLUMNS = (
    "seed",
    "minutes",
    "kills",
    "all that happened",
    "poison",
    "sent",
    "acked",
    "lost",
    "duplicated",
    "p99 ms",
    "runs",
    "equal again",
    "steepest MiB/min",
    "most descriptors more",
    "held",
)


class Interrupted(Exception):
    """Somebody wants it to end now."""


@dataclasses.dataclass(frozen=True, slots=True)
class Length:
    """minutes: of the storm. warm_up_s, least_s: of a life of whose growth anything is said; judged_s: and judged."""

    minutes: float
    warm_up_s: float
    least_s: float
    judged_s: float


WHOLE = Length(minutes=30.0, warm_up_s=180.0, least_s=600.0, judged_s=600.0)
SHORT = Length(minutes=3.0, warm_up_s=40.0, least_s=40.0, judged_s=600.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Soaked:
    """What became of one seed. grown: of every life that was long enough to say anything of it."""

    seed: int
    minutes: float
    kills: int
    happened: dict[str, int]
    poison: int
    verdict: checker.Verdict
    runs: int
    again: tuple[bool, ...]
    grown: tuple[growth.Growth, ...]
    problems: tuple[str, ...]

    @property
    def held(self) -> bool:
        return not self.problems and not self.verdict.findings


class Soak:
    """One platform and one storm."""

    def __init__(self, of: world.World, broker: subjects.Broker, length: Length) -> None:
        self._of, self._length = of, length
        self._over = threading.Event()
        self.interrupted = False
        self._seen = world.Seen()
        self._again: list[bool] = []
        self._grown: list[growth.Growth] = []
        of.prepare(
            _REPLICAS, proxied=True, clocks=True, trainer=True, answers=int(_RATE * 60 * length.minutes / 10) + 400
        )
        self._trainings = trainings.Trainings(of, self._over)
        of.start()
        self._weather = weather.Weather(of, broker, self._over, 60 * length.minutes)

    def interrupt(self) -> None:
        """Ends what goes on; the next thing that looks stops the whole."""
        self.interrupted = True
        self._over.set()

    def play(self) -> Soaked:
        with growth.Watch(self._of.everyone) as watch:
            self._of.play(load.Mix(copies=2), lambda: self._storm(watch), at_once=64)
            if self._seen.problems or self.interrupted:
                raise subjects.Failed("The storm broke off.")
            _say("the storm is over; what it has left is looked at")
            self._of.settled()
            last = self._trainings.finish()
        lives = {life: samples for life, samples in watch.lives.items() if samples}
        self._grown = self._grown_by(lives)
        return self._judged(last)

    def _storm(self, watch: growth.Watch) -> None:
        acts = (self._weather.act, self._weather.turn_link, self._poison, self._trainings.go_on)
        threads = [threading.Thread(target=self._guarded, args=(act,), name=act.__name__) for act in acts]
        for thread in threads:
            thread.start()
        try:
            until = time.monotonic() + 60 * self._length.minutes
            for minute in range(1, math.ceil(self._length.minutes) + 1):
                if self._over.wait(min(_MINUTE_S, until - time.monotonic())):
                    break
                self._tell(minute, watch)
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _guarded(self, act: Callable[[], None]) -> None:
        """What goes wrong in one thread ends the storm, and is said."""
        try:
            act()
        except Exception as problem:  # noqa: BLE001  whatever it is, it is the run's result
            self._seen.problems.append(f"{act.__name__}: {problem}")
            self._over.set()

    def _poison(self) -> None:
        """One record in a hundred, by the votes that were taken."""
        with self._of.opened() as log:
            after = self._of.history.acknowledged
            while not self._over.wait(0.1):
                if self._of.history.acknowledged >= after + 2 * _VALID:
                    after = self._of.history.acknowledged
                    with contextlib.suppress(errors.LogUnavailable):  # it is there or not
                        self._of.poison.add(log)

    def _tell(self, minute: int, watch: growth.Watch) -> None:
        for subject in self._of.everyone:
            subject.died()
        sizes = ", ".join(f"{name} {one.rss_mib:.0f}" for name, one in watch.now().items())
        _say(
            f"  minute {minute}: {self._of.history.acknowledged} acknowledged, {self._weather.kills} kills, "
            f"{sum(self._weather.happened.values())} things happened, {len(self._of.poison)} poisoned, "
            f"{len(self._trainings.done)} runs; MiB: {sizes}"
        )

    def _grown_by(self, lives: dict[tuple[str, int], list[growth.Sample]]) -> list[growth.Growth]:
        length = self._length
        found = (growth.growth(name, life, length.warm_up_s, length.least_s) for (name, _), life in lives.items())
        return [one for one in found if one is not None]

    def _judged(self, last: trainings.Done) -> Soaked:
        of, seen = self._of, self._seen
        self._again = [trainings.again(of, run) for run in self._trainings.most_disturbed(last)]
        with of.opened() as log:
            seen.problems += of.poison.problems(log)
            standing = reading.standing(reading.decoded(log, topics.EXAMPLES, examples.Example))
            announced = collections.Counter(
                one.id for one in reading.decoded(log, topics.MODELS, models.PublishedModel)
            )
        members = collections.Counter(trainings.members(of, last))
        seen.require(max(members.values(), default=0) <= 1, "An example is in the last data set twice.")
        missing = {one.id for one in standing} - members.keys()
        seen.require(not missing, f"{len(missing)} examples are in no data set, e.g. {sorted(missing)[:1]}.")
        seen.require(max(announced.values(), default=0) <= 1, "A model was announced twice.")
        other = self._again.count(False)
        seen.require(not other, f"{other} of {len(self._again)} runs have other weights when run again.")
        seen.problems += [f"{run.name} {run.state}: {run.problem}" for run in self._trainings.done if run.problem]
        for one in self._grown:
            judged = 60 * one.minutes >= self._length.judged_s
            seen.require(one.steady or not judged, f"{one.name} grew: {_growth_words(one)}.")
        found = of.found()
        found = dataclasses.replace(found, listed=of.listed_conflicts(found), rebuilt=of.rebuilt())
        told = history.read(of.folder / "history.jsonl")
        return self.soaked(checker.check(told, found, deadline_s=_ANSWERED_WITHIN_S))

    def soaked(self, verdict: checker.Verdict, *problems: str) -> Soaked:
        """What is known so far; problems: beside those that were seen."""
        return Soaked(
            seed=self._of.seed,
            minutes=self._length.minutes,
            kills=self._weather.kills,
            happened=dict(sorted(self._weather.happened.items())),
            poison=len(self._of.poison),
            verdict=verdict,
            runs=len(self._trainings.done),
            again=tuple(self._again),
            grown=tuple(self._grown),
            problems=(*self._seen.problems, *problems),
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="make soak", description="Half an hour of every fault at once.")
    parser.add_argument("--short", action="store_true", help="three minutes with one seed; writes no page")
    parser.add_argument("--seed", type=int, action="append", help="of a storm; may be given several times")
    asked = parser.parse_args()
    length, seeds = (SHORT if asked.short else WHOLE), asked.seed or (_SEEDS[:1] if asked.short else _SEEDS)
    logging.configure("soak", "error")  # what it reads of a log that is away is no news
    begun, done = time.monotonic(), []
    try:
        for seed in seeds:
            _say(f"seed {seed}: {length.minutes:.0f} minutes of every fault")
            done.append(soak(seed, length))
            _tell(done[-1])
    except (Interrupted, KeyboardInterrupt):
        _say("stopped by hand: nothing is judged")
        sys.exit(130)
    except (subjects.Failed, errors.LogUnavailable) as problem:
        sys.exit(f"The platform did not come up: {problem}")
    sys.stdout.write(tables.table(_COLUMNS, [_cells(one) for one in done]) + "\n")
    if not asked.short and not asked.seed:
        pages.put(app.PAGE, page(done, time.monotonic() - begun), "soak")
    sys.exit(0 if all(one.held for one in done) else 1)


def soak(seed: int, length: Length) -> Soaked:
    """One storm, on a platform and a broker of its own."""
    with (
        _broker(seed) as (link, broker),
        world.made(
            log="kafka",
            size=world.Size(votes=1, kills=0, away_s=0.0, slow_s=0.0, rate=_RATE),
            seed=seed,
            name="soak",
            broker=broker,
            link=link,
        ) as of,
    ):
        storm = Soak(of, broker, length)
        with _ended_by(storm.interrupt):
            try:
                soaked = storm.play()
            except (subjects.Failed, errors.LogUnavailable) as problem:
                soaked = storm.soaked(checker.NOTHING, str(problem))
        of.kept = not (soaked.held or storm.interrupted)
        if of.kept:
            _say(f"  kept in {of.folder}")
    if storm.interrupted:
        raise Interrupted
    return soaked


@contextlib.contextmanager
def _broker(seed: int) -> Iterator[tuple[proxy.Proxy, subjects.Broker]]:
    with contextlib.ExitStack() as opened:
        link = proxy.Proxy(seed)
        opened.callback(link.close)
        folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="trimtab-kafka-"))
        broker = opened.enter_context(subjects.broker(pathlib.Path(folder), link.port))
        link.target = broker.behind
        yield link, broker


@contextlib.contextmanager
def _ended_by(interrupt: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM let what goes on come to an end; a second one does not wait for that."""

    def heard(number: int, _: object) -> None:
        signal.signal(number, signal.default_int_handler)
        _say("stopping; once more stops at once")
        interrupt()

    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def page(done: Sequence[Soaked], took: float) -> str:
    """What stands between the page's marks."""
    broken = [f"- seed {one.seed}: {words}" for one in done for words in (*one.problems, *one.verdict.sentences)]
    lives = [f"- seed {one.seed}: {life.name}, {_growth_words(life)}" for one in done for life in one.grown]
    return "\n\n".join(
        filter(
            None,
            [
                f"Made on {datetime.date.today():%Y-%m-%d} in {took / 60:.0f} minutes.",
                tables.table(_COLUMNS, [_cells(one) for one in done]),
                "Lives that were long enough to say something of them:\n\n" + "\n".join(lives),
                "What did not hold:\n\n" + "\n".join(broken) if broken else "",
            ],
        )
    )


def _tell(one: Soaked) -> None:
    _say(f"seed {one.seed}: {'held' if one.held else 'DID NOT HOLD'}")
    for life in one.grown:
        _say(f"  {life.name}: {_growth_words(life)}")
    for sentence in (*one.problems, *one.verdict.sentences):
        _say(f"  {sentence}")


def _growth_words(one: growth.Growth) -> str:
    return (
        f"{one.mib_per_min:+.2f} MiB a minute over {one.minutes:.1f} minutes to {one.rss_mib:.0f} MiB, "
        f"{one.more_descriptors:+.0f} descriptors"
    )


def _cells(one: Soaked) -> list[str]:
    of = one.verdict
    return [
        str(one.seed),
        f"{one.minutes:.0f}",
        str(one.kills),
        ", ".join(f"{what} {count}" for what, count in one.happened.items()),
        str(one.poison),
        str(of.sent),
        str(of.acknowledged),
        str(len(of.lost)),
        str(len(of.duplicated)),
        f"{of.p99_ms:.0f}",
        str(one.runs),
        f"{one.again.count(True)} of {len(one.again)}",
        f"{max((life.mib_per_min for life in one.grown), default=math.nan):.2f}",
        f"{max((life.more_descriptors for life in one.grown), default=math.nan):.0f}",
        "yes" if one.held else "no",
    ]


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
