"""The ledger's consumer: topics `completions`, `feedback`, `scores`, `models`, `rollouts`, `audit` into the database.

Driven by `bus.runner`; one transaction holds the effects of a batch and the positions after it. What a batch does to
feedback and examples is in `settling`; a data set's members are read from its artifact.
"""

import collections
import contextlib
import dataclasses
import json
import math
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import sqlalchemy as sa

from trimtab.bus import letters, port, runner, topics
from trimtab.core import audit, completions, errors, failpoints, feedback, models, releases, scoring
from trimtab.ledger import answers, auditing, events, leading, restoring, scores, settling
from trimtab.ledger.store import completions as completion_store
from trimtab.ledger.store import database, lineage, offsets
from trimtab.obs import logging, metrics
from trimtab.wire import schemas

_log = logging.get(__name__)

TOPICS = (topics.COMPLETIONS, topics.FEEDBACK, topics.SCORES, topics.MODELS, topics.ROLLOUTS, topics.AUDIT)
_NAMES = tuple(topic.name for topic in TOPICS)
NAME = "ledger"
# Records of one transaction: what each costs in SQL is shared by all of its batch.
BATCH = runner.Batch(max_records=4000)
# How often, and how long apart, a data set that cannot be read is tried before it is given up.
ATTEMPTS = 5
RETRY_S = 1.0
_MEMBERS_FILE = "members.jsonl"


class Artifacts(Protocol):
    """The part of `registry.Registry` that the ledger needs."""

    def fetch(self, model_id: str) -> pathlib.Path:
        """The verified folder of an artifact."""
        ...


@dataclasses.dataclass(slots=True)
class _Pending:
    """What a batch will do, decoded and judged; nothing of it is written yet."""

    judged: settling.Batch = dataclasses.field(default_factory=settling.Batch)
    scored: list[scoring.AnswerScore] = dataclasses.field(default_factory=list)
    published: list[tuple[port.Record, models.PublishedModel]] = dataclasses.field(default_factory=list)
    members: list[tuple[models.PublishedModel, "_Members"]] = dataclasses.field(default_factory=list)
    rollouts: list[tuple[port.Record, releases.Release]] = dataclasses.field(default_factory=list)
    audited: list[tuple[port.Record, audit.AuditRecord]] = dataclasses.field(default_factory=list)
    positions: dict[port.TopicPartition, int] = dataclasses.field(default_factory=dict)


class Consumer:
    """A `runner.Handler`. `on_emitted` is told after a commit that examples wait in the outbox."""

    def __init__(
        self,
        store: database.Store,
        artifacts: Artifacts,
        *,
        targets: Mapping[port.TopicPartition, int],
        on_emitted: Callable[[], None],
        on_caught_up: Callable[[], None],
        retry_s: float = RETRY_S,
    ) -> None:
        """targets: end offsets seen at the start; when the positions have reached them, on_caught_up is called once."""
        self._store = store
        self._artifacts = artifacts
        self._settler = settling.Settler()
        self._on_emitted = on_emitted
        self._on_caught_up = on_caught_up
        self._retry_s = retry_s
        self._attempts: collections.Counter[str] = collections.Counter()
        self._behind: dict[port.TopicPartition, int] | None = dict(targets)
        self._positions, self._rebuilding = stored(self._store)
        self._report()

    def positions(self) -> Mapping[port.TopicPartition, int]:
        """As they stand in the database: a commit that was not heard of may have happened.

        LeadLost when what was heard of is gone: then it takes more than to read on.
        """
        with _waiting_for_the_store():
            found, self._rebuilding = stored(self._store)
            if any(found.get(source, 0) < offset for source, offset in self._positions.items()):
                raise leading.LeadLost(f"The database was set back to {found}, from {self._positions}.")
            self._positions = found
            self._report()
        return dict(self._positions)

    @contextlib.contextmanager
    def transaction(self) -> Iterator["_Effect"]:
        pending = _Pending()
        yield _Effect(pending, self._members)
        with _waiting_for_the_store():
            self._settle(pending)

    def _settle(self, pending: _Pending) -> None:
        with contextlib.ExitStack() as undo:
            undo.callback(self._settler.forget)
            with self._store.write() as connection:
                self._hold_positions(connection)
                emitted = self._commit(connection, pending)
                failpoints.reach("ledger.consume.before_commit")
            failpoints.reach("ledger.consume.committed")
            undo.pop_all()
        self._positions.update(pending.positions)
        if emitted:
            metrics.LEDGER_EXAMPLES.inc(emitted)
            self._on_emitted()
        self._report()

    def _hold_positions(self, connection: sa.Connection) -> None:
        """The batch begins where the database stands: a commit that came late, or a restored copy, moves that."""
        found = offsets.load(connection, _NAMES)
        if found != self._positions:
            raise leading.LeadLost(f"The database stands at {found} and this ledger at {self._positions}.")

    def _commit(self, connection: sa.Connection, pending: _Pending) -> int:
        touched = self._settler.store(connection, pending.judged)
        # a rebuild folds when all is there
        emitted = self._settler.settle(connection, set() if self._rebuilding else touched)
        scores.add(connection, pending.scored)
        for record, model in pending.published:
            lineage.add_model(connection, record, model)
        for dataset, members in pending.members:
            lineage.add_members(connection, dataset, members)
        for record, release in pending.rollouts:
            lineage.add_release(connection, record, release)
        for record, entry in pending.audited:
            auditing.add(connection, record, entry)
        offsets.save(connection, pending.positions)
        return emitted

    def _report(self) -> None:
        """Says once that all that stood in the log at the start is in the database, and settled."""
        if self._behind is None:
            return
        if all(self._positions.get(source, 0) >= end for source, end in self._behind.items()):
            if self._rebuilding:
                metrics.LEDGER_EXAMPLES.inc(restoring.settle_all(self._store, self._settler))
                self._rebuilding = False
                self._on_emitted()
            self._behind = None
            self._on_caught_up()

    def _members(self, dataset: models.PublishedModel) -> "_Members":
        """The members of a data set, from its artifact. NotNow a few times when it cannot be read, then Never."""
        try:
            members = _Members(self._artifacts.fetch(dataset.id) / _MEMBERS_FILE)
            for _ in members:  # read to its end before anything is written
                pass
            return members
        except (errors.TrimtabError, OSError, ValueError, KeyError, TypeError) as problem:
            self._attempts[dataset.id] += 1
            reason = f"The members of data set {dataset.id} cannot be read: {problem}"
            if self._attempts[dataset.id] >= ATTEMPTS:
                raise runner.Never(f"{reason} Tried {ATTEMPTS} times.") from problem
            raise runner.NotNow(reason, self._retry_s) from problem


class _Effect:
    """A `runner.Effect` that collects; `Consumer.transaction` writes it all at its end."""

    def __init__(self, pending: _Pending, members: Callable[[models.PublishedModel], "_Members"]) -> None:
        self._pending = pending
        self._members = members

    def apply(self, record: port.Record) -> None:
        """MalformedRecord for bytes that are no such record; tombstones pass: nothing the ledger knows is undone."""
        if not record.value and topics.ALL[record.topic].cleanup is topics.Cleanup.COMPACT:
            return
        match record.topic:
            case topics.COMPLETIONS.name:
                completion = schemas.decode(record.value, record.headers, completions.Completion)
                arrival = completion_store.Arrival(record, completion, _answer_of(completion))
                self._pending.judged.answered.append(arrival)
            case topics.FEEDBACK.name:
                event = schemas.decode(record.value, record.headers, feedback.FeedbackEvent)
                first = letters.first_offset(record)
                received = events.receive(event, partition=record.partition, offset=first)
                self._pending.judged.said.append((record, received))
            case topics.SCORES.name:
                score = schemas.decode(record.value, record.headers, scoring.AnswerScore)
                self._pending.scored.append(score)
            case topics.MODELS.name:
                model = schemas.decode(record.value, record.headers, models.PublishedModel)
                if model.kind is models.ModelKind.DATASET:
                    self._pending.members.append((model, self._members(model)))
                self._pending.published.append((record, model))
            case topics.ROLLOUTS.name:
                release = schemas.decode(record.value, record.headers, releases.Release)
                self._pending.rollouts.append((record, release))
            case topics.AUDIT.name:
                entry = schemas.decode(record.value, record.headers, audit.AuditRecord)
                self._pending.audited.append((record, entry))

    def save(self, positions: Mapping[port.TopicPartition, int]) -> None:
        self._pending.positions.update(positions)


def run(
    log: port.EventLog,
    store: database.Store,
    artifacts: Artifacts,
    *,
    on_emitted: Callable[[], None],
    on_caught_up: Callable[[], None],
    stop: threading.Event,
) -> None:
    """Consumes until `stop` is set. Blocks: a process runs it in a thread. LeadLost when another consumes instead."""
    while not stop.is_set():
        try:
            restoring.take_back(log, store)
            on_emitted()
            handler = Consumer(
                store, artifacts, targets=targets(log, store), on_emitted=on_emitted, on_caught_up=on_caught_up
            )
        except (errors.LogUnavailable, errors.ServiceUnavailable) as problem:
            _log.warning("not now", consumer=NAME, reason=str(problem))
            stop.wait(runner.LOG_AWAY_DELAY_S)
            continue
        runner.Runner(log, TOPICS, handler, consumer=NAME, batch=BATCH).run(stop)


@contextlib.contextmanager
def _waiting_for_the_store() -> Iterator[None]:
    try:
        yield
    except errors.ServiceUnavailable as problem:
        raise runner.NotNow(str(problem)) from problem


def stored(store: database.Store) -> tuple[dict[port.TopicPartition, int], bool]:
    """Where the database stands, and whether it is being rebuilt."""
    with store.read() as connection:
        return offsets.load(connection, _NAMES), restoring.is_rebuilding(connection)


def targets(log: port.EventLog, store: database.Store) -> dict[port.TopicPartition, int]:
    """Where to be before the ledger is ready: the end of each partition that still has records to read."""
    with store.read() as connection:
        positions = offsets.load(connection, _NAMES)
    ends = {source: end for topic in TOPICS for source, end in log.end_offsets(topic.name).items()}
    wanted = {}
    for source, end in ends.items():
        start = positions.get(source, 0)
        with contextlib.closing(log.reader({source: start})) as reader:
            if start < end and reader.poll(1, timeout_s=0.0):
                wanted[source] = end
    return wanted


def _answer_of(completion: completions.Completion) -> answers.Answer:
    """MalformedRecord for what could never be found again."""
    if not completion.context.tenant or not completion.context.session_hash:
        raise errors.MalformedRecord("Its `context.tenant` or `context.session_hash` is empty.")
    figures = completions.figures(completion)
    if not all(math.isfinite(value) for value in figures.values()):
        wrong = ", ".join(f"`{name}` is {value}" for name, value in figures.items() if not math.isfinite(value))
        raise errors.MalformedRecord(f"Its {wrong}: no number.")
    try:
        return answers.answer_of(completion)
    except errors.ForgedCompletionId as problem:
        raise errors.MalformedRecord(f"Its `id` is no completion id: {problem}") from problem


@dataclasses.dataclass(frozen=True, slots=True)
class _Members:
    """Those in a file, a line each: there may be as many as the line has examples, so nobody holds them all."""

    file: pathlib.Path

    def __iter__(self) -> Iterator[lineage.Member]:
        with self.file.open(encoding="utf-8") as lines:
            for line in filter(str.strip, lines):
                values = json.loads(line)
                yield lineage.Member(values["example_id"], values["disposition"], values.get("reason", ""))
