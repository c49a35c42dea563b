"""One run's world: a log, replicas of the feedback process, a ledger, and a history."""

import asyncio
import contextlib
import dataclasses
import functools
import pathlib
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from tests.faults import reading
from tests.faults.harness import checker, checks, history, load, poisoning, proxy, subjects

from trimtab.bus import connect, port, publish, topics
from trimtab.core import errors, examples, feedback, ids, ledger
from trimtab.ledger.store import database, offsets
from trimtab.ledger.store import examples as example_store
from trimtab.rpc import secrets
from trimtab.trainer.data import store as trainer_store
from trimtab.wire import calls, schemas

# Within which the process has to answer: the log's own deadline, and room for a busy machine.
DEADLINE_S = {"sqlite": 5.0 + 1.0, "kafka": 10.0 + 1.0}
_ANSWERS = 400
_LEASE_S = 3.0
# Trains when it is asked to.
_LINES = f"""
[lines.{load.LINE}]
tenant = "{load.TENANT}"
[lines.{load.LINE}.trigger]
examples = 0
"""
_SETTLED_WITHIN_S = 300.0
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """How much a run does. votes: at least; kills: of each kind of victim; away_s: how long the log is away at most;
    slow_s: how long a consumer is slow; rate: votes a second, for as long as a row goes on."""

    votes: int
    kills: int
    away_s: float
    slow_s: float
    rate: float = 150.0


WHOLE = Size(votes=5000, kills=10, away_s=60.0, slow_s=300.0)
SHORT = Size(votes=500, kills=3, away_s=16.0, slow_s=20.0)
SMALLEST = Size(votes=150, kills=2, away_s=12.0, slow_s=5.0, rate=50.0)


@dataclasses.dataclass(slots=True)
class Seen(checks.Noted):
    """What a row saw and asks for beside the checks."""

    rebuild: bool = False
    copies: bool = False


class World:
    """Made by `made`; everything in it is started by the row that it is for."""

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        log: str,
        size: Size,
        seed: int,
        name: str,
        broker: subjects.Broker | None,
        link: proxy.Proxy,
        mutant: str = "",
        program: str = "",
    ) -> None:
        self.folder, self.log_kind, self.size, self.seed, self.link = folder, log, size, seed, link
        self.broker = broker
        self.rng = random.Random(f"{name} {log} {seed}")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log_file = folder / "log.db"
        self.prefix = f"{name}.{ids.uuid7().hex[-6:]}."
        self.history = history.History(folder / "history.jsonl", row=name, log=log, seed=seed)
        self.mutant, self.mutated = mutant, program
        self.replicas: list[subjects.Subject] = []
        self.ledger: subjects.Subject
        self.trainer: subjects.Subject | None = None
        self.poison = poisoning.Poison()
        self.answers: list[str] = []
        self.kept = True
        self.verdict: checker.Verdict | None = None
        self.broker_kills = broker.kills if broker else 0
        # where users knock, when not at the replicas themselves
        self.doors: list[str] = []
        secrets.create(folder / "secrets.toml", load.TENANT)
        self.secrets = secrets.load(folder / "secrets.toml")

    @property
    def url(self) -> str:
        """As the harness reaches the log."""
        return f"sqlite://{self.log_file}" if self.broker is None else f"kafka://{self.broker.address}/{self.prefix}"

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.folder / 'ledger.db'}"

    @property
    def everyone(self) -> list[subjects.Subject]:
        return [*self.replicas, self.ledger, *([self.trainer] if self.trainer else [])]

    def prepare(
        self,
        replicas: int,
        *,
        proxied: bool = False,
        clocks: bool = False,
        trainer: bool = False,
        answers: int = _ANSWERS,
    ) -> None:
        """Topics, answers to vote on, and processes that are not started yet.

        proxied: they reach a Kafka through the proxy. clocks: each has a clock of its own. trainer: there is one.
        """
        connect.create_topics(self.url)
        made = [
            load.answer(number, self.seed, self.secrets.signing, self.secrets.hash_key) for number in range(answers)
        ]
        for start in range(0, answers, _ANSWERS):
            part = made[start : start + _ANSWERS]
            records = [publish.new_record(topics.COMPLETIONS, one.context.session_hash, one) for one in part]
            self.patiently(functools.partial(_append, records))
        self.answers = [one.id for one in made]
        url = f"kafka://{self.broker.proxied_address}/{self.prefix}" if proxied and self.broker else self.url
        self.replicas = [self._subject("feedback", f"feedback-{number}", url) for number in range(replicas)]
        self.ledger = self._subject("ledger", "ledger", url)
        self.trainer = self._subject("trainer", "trainer", url) if trainer else None
        (self.folder / "lines.toml").write_text(_LINES)
        for subject in self.everyone if clocks else ():
            subject.set_clock(0.0)

    def start(self, failpoints: Sequence[str] = ()) -> None:
        """Everything at once; failpoints: of the replicas in their order, then of the ledger."""
        for number, subject in enumerate(self.everyone):
            subject.start(failpoints[number] if number < len(failpoints) else "")
        for subject in self.everyone:
            subject.await_serving()

    def play(self, mix: load.Mix, script: Callable[[], None], *, votes: int = 0, at_once: int = 16) -> None:
        """Users vote until there are enough of them and the script, which runs beside them, has ended."""
        asyncio.run(self._play(mix, script, votes or self.size.votes, at_once))

    def settled(self) -> None:
        """Returns when the ledger has read and published everything, and a trainer has read that."""
        with self.opened() as log, contextlib.closing(database.Database(self.database_url)) as store:
            _await(self.ledger, lambda: self._is_settled(store, log))
            if self.trainer is not None:
                _await(self.trainer, lambda: _is_at_end(log, topics.EXAMPLES, self.trainer_stands()))

    def ledger_stands(self) -> dict[port.TopicPartition, int]:
        """Where it reads on."""
        with contextlib.closing(database.Database(self.database_url)) as store, store.read() as connection:
            return offsets.load(connection, [topics.FEEDBACK.name, topics.COMPLETIONS.name])

    def trainer_stands(self) -> dict[port.TopicPartition, int]:
        """Where it reads on."""
        path = self.folder / "trainer" / "trainer.db"
        with contextlib.closing(trainer_store.Store(path)) as store, store.reading() as connection:
            return trainer_store.positions(connection)

    def found(self) -> checker.Found:
        """What is in the log, and what would train; poison is not among it."""
        with self.opened() as log:
            return checker.Found(stored=self._stored(log), counted=self._counted(log))

    def antidotes(self) -> list[str]:
        """The ids of poisoned votes that count all the same, once for each example."""
        with self.opened() as log:
            made = reading.standing(reading.decoded(log, topics.EXAMPLES, examples.Example))
        return [one.feedback_id for one in made if one.feedback_id in self.poison.names]

    def rebuilt(self) -> Sequence[checker.Counted]:
        """What counts after the ledger's database was lost."""
        self.ledger.end()
        for path in self.folder.glob("ledger.db*"):
            path.unlink()
        self.ledger.start()
        self.ledger.await_serving(_SETTLED_WITHIN_S)  # it has read everything by then
        self.settled()
        with self.opened() as log:
            return self._counted(log)

    def listed_conflicts(self, found: checker.Found) -> set[tuple[str, str]]:
        """Of the ids with several bodies, those (id, digest) that a trace shows as conflicts."""
        bodies: dict[str, set[str]] = {}
        for one in found.stored:
            bodies.setdefault(one.feedback_id, set()).add(one.digest)
        return asyncio.run(self._listed([name for name, of in bodies.items() if len(of) > 1]))

    def readable(self) -> int:
        """How many records of feedback the log gives when it is read from its beginning; waits until it answers."""
        return self.patiently(lambda log: len(reading.records(log, topics.FEEDBACK)))

    def patiently(self, ask: Callable[[port.EventLog], _T], within_s: float = 60.0) -> _T:
        """What a log answers that may be away for a while."""
        give_up_at = time.monotonic() + within_s
        while True:
            try:
                with self.opened() as log:
                    return ask(log)
            except errors.LogUnavailable:
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(0.2)

    def await_votes(self, more: int, within_s: float = 60.0) -> None:
        """Returns when so many more were acknowledged, or when no replica lives that could: a fault is to hit a system
        at work."""
        wanted, give_up_at = self.history.acknowledged + more, time.monotonic() + within_s
        while self.history.acknowledged < wanted and not all(one.died() for one in self.replicas):
            if time.monotonic() > give_up_at:
                raise subjects.Failed(f"Nobody's vote was acknowledged within {within_s:.0f} s: see {self.folder}")
            time.sleep(0.02)

    def contend(self, over: threading.Event) -> list[str]:
        """Renews a lease that another would like to have, then lets go of it; what went wrong, in sentences."""
        return asyncio.run(self._contend(over))

    @contextlib.contextmanager
    def opened(self) -> Iterator[port.EventLog]:
        with contextlib.closing(connect.open_log(self.url)) as log:
            yield log

    def end(self) -> None:
        for subject in self.everyone if self.replicas else ():
            subject.end()
        self.history.close()

    def _subject(self, program: str, name: str, url: str) -> subjects.Subject:
        settings = subjects.settings_of(self.folder, url)
        if program == "ledger":
            settings["database"] = self.database_url
        if program == "trainer":
            settings |= {"state": self.folder / "trainer", "ledger_address": self.ledger.address}
        mutant = self.mutant if self.mutated == program else ""
        return subjects.Subject(program, name, self.folder, settings, mutant=mutant)

    async def _play(self, mix: load.Mix, script: Callable[[], None], votes: int, at_once: int) -> None:
        acting = asyncio.create_task(asyncio.to_thread(script))
        users = load.Users(
            self.doors or [one.address for one in self.replicas],
            self.secrets.internal_token,
            self.answers,
            self.history,
            seed=f"{self.seed} {self.prefix.partition('.')[0]}",
            mix=mix,
            rate=self.size.rate,
            at_once=at_once,
        )
        voting = asyncio.create_task(users.vote(votes, acting.done))
        try:
            await asyncio.gather(acting, voting)
        finally:
            voting.cancel()  # a script that fails leaves nobody there who could answer
            await asyncio.wait((voting,))
            await users.close()

    def _is_settled(self, store: database.Database, log: port.EventLog) -> bool:
        with store.read() as connection:
            positions = offsets.load(connection, [topics.FEEDBACK.name, topics.COMPLETIONS.name])
            if example_store.unpublished(connection, 1):
                return False
        return all(_is_at_end(log, topic, positions) for topic in (topics.FEEDBACK, topics.COMPLETIONS))

    def _stored(self, log: port.EventLog) -> list[checker.Stored]:
        found = []
        for record in self.poison.without(reading.records(log, topics.FEEDBACK)):
            event = schemas.decode(record.value, record.headers, feedback.FeedbackEvent)
            found.append(checker.Stored(event.id, load.digest_of_event(event), record.partition, record.offset))
        return found

    def _counted(self, log: port.EventLog) -> list[checker.Counted]:
        made = reading.decoded(log, topics.EXAMPLES, examples.Example)
        return [
            checker.Counted(one.feedback_id, load.digest_of_example(one), one.id)
            for one in reading.standing(made)
            if one.feedback_id not in self.poison.names
        ]

    async def _contend(self, over: threading.Event) -> list[str]:
        wrong, last = [], 0
        async with load.trimtab_client.connect(self.ledger.address, self.secrets.internal_token) as channel:
            asking = calls.LedgerCalls(channel)

            async def ask(holder: str) -> ledger.AcquireLeaseResponse:
                return await asking.acquire_lease(ledger.AcquireLeaseRequest("trainer", holder, _LEASE_S))

            while not over.is_set():
                mine = await ask("holder")
                if last and mine.generation != last:
                    wrong.append(f"A lease that was renewed in time ran out (generation {last}).")
                last = mine.generation
                await asyncio.sleep(0.1)
                if (other := await ask("other")).held:
                    wrong.append(f"A lease that was renewed in time went to another (generation {other.generation}).")
                    await asking.release_lease(ledger.ReleaseLeaseRequest("trainer", "other"))
            self.ledger.set_clock(-7200.0)
            await asyncio.sleep(_LEASE_S + 1.0)
            if not (await ask("other")).held:
                wrong.append("A lease whose holder is gone stands after its time.")
        return wrong

    async def _listed(self, names: Sequence[str]) -> set[tuple[str, str]]:
        conflict = ledger.FeedbackStatus.CONFLICT
        async with load.trimtab_client.connect(self.ledger.address, self.secrets.internal_token) as channel:
            asking = calls.LedgerCalls(channel)
            answers = [await asking.trace(ledger.TraceRequest(load.TENANT, name)) for name in names]
        return {
            (one.event.id, load.digest_of_event(one.event))
            for answer in answers
            for one in answer.feedback
            if one.status is conflict
        }


def _await(reader: subjects.Subject, came: Callable[[], bool]) -> None:
    """Returns when a process has come to the log's end."""
    give_up_at = time.monotonic() + _SETTLED_WITHIN_S
    while not came():
        if reader.died():
            raise subjects.Failed(f"{reader.name} was killed and nobody has started it again.")
        if time.monotonic() > give_up_at:
            raise subjects.Failed(f"{reader.name} did not come to the log's end: see {reader.said}")
        time.sleep(0.2)


def _append(records: Sequence[port.NewRecord], log: port.EventLog) -> None:
    """An answer that stands there twice is one: it may be done again."""
    log.append(records).result()


def _is_at_end(log: port.EventLog, topic: topics.Topic, stands: Mapping[port.TopicPartition, int]) -> bool:
    return all(stands.get(source, 0) >= end for source, end in log.end_offsets(topic.name).items())


@contextlib.contextmanager
def made(**of: object) -> Iterator[World]:
    """A world in a folder of its own, which stays there when it was not said to be of no use."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="trimtab-faults-"))
    world = World(folder, **of)  # type: ignore[arg-type]
    try:
        yield world
    finally:
        world.end()
    if not world.kept:
        shutil.rmtree(folder)
