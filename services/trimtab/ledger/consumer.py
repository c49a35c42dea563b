"""The ledger's consumer: topics `completions`, `feedback`, `scores`, `models`, `rollouts`, `audit` into the database.

Driven by `bus.runner`; one transaction holds the effects of a batch and the positions after it. What a batch does to
feedback and examples is in `settling`; a data set's members are read from its artifact.
"""

import collections
import contextlib
import dataclasses
import json
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import sqlalchemy as sa

from trimtab.bus import port, runner, topics
from trimtab.core import audit, completions, errors, failpoints, feedback, models, releases, scoring
from trimtab.ledger import answers, auditing, events, restoring, scores, settling
from trimtab.ledger.store import completions as completion_store
from trimtab.ledger.store import database, lineage, offsets
from trimtab.obs import logging, metrics
from trimtab.wire import schemas

_log = logging.get(__name__)

TOPICS = (topics.COMPLETIONS, topics.FEEDBACK, topics.SCORES, topics.MODELS, topics.ROLLOUTS, topics.AUDIT)
NAME = "ledger"
# Records of one transaction: what each costs in SQL is shared by all of its batch.
BATCH = runner.Batch(max_records=2000)
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
    members: list[tuple[models.PublishedModel, Sequence[lineage.Member]]] = dataclasses.field(default_factory=list)
    rollouts: list[tuple[port.Record, releases.Release]] = dataclasses.field(default_factory=list)
    audited: list[tuple[port.Record, audit.AuditRecord]] = dataclasses.field(default_factory=list)
    positions: dict[port.TopicPartition, int] = dataclasses.field(default_factory=dict)


class Consumer:
    """A `runner.Handler`. `on_emitted` is told after a commit that examples wait in the outbox."""

    def __init__(
        self,
        store: database.Database,
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
        with store.read() as connection:
            self._positions = offsets.load(connection, [topic.name for topic in TOPICS])
            self._rebuilding = restoring.is_rebuilding(connection)
        self._behind: dict[port.TopicPartition, int] | None = dict(targets)
        self._report()

    def positions(self) -> Mapping[port.TopicPartition, int]:
        return dict(self._positions)

    @contextlib.contextmanager
    def transaction(self) -> Iterator["_Effect"]:
        pending = _Pending()
        yield _Effect(pending, self._members)
        with contextlib.ExitStack() as undo:
            undo.callback(self._settler.forget)
            with self._store.write() as connection:
                emitted = self._commit(connection, pending)
                failpoints.reach("ledger.consume.before_commit")
            failpoints.reach("ledger.consume.committed")
            undo.pop_all()
        self._positions.update(pending.positions)
        if emitted:
            metrics.LEDGER_EXAMPLES.inc(emitted)
            self._on_emitted()
        self._report()

    def _commit(self, connection: sa.Connection, pending: _Pending) -> int:
        touched = self._settler.store(connection, pending.judged)
        emitted = 0 if self._rebuilding else self._settler.settle(connection, touched)
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

    def _members(self, dataset: models.PublishedModel) -> list[lineage.Member]:
        """The members of a data set, from its artifact. NotNow a few times when it cannot be read, then Never."""
        try:
            folder = self._artifacts.fetch(dataset.id)
            return [_member(line) for line in (folder / _MEMBERS_FILE).read_text().splitlines() if line]
        except (errors.TrimtabError, OSError, ValueError, KeyError, TypeError) as problem:
            self._attempts[dataset.id] += 1
            reason = f"The members of data set {dataset.id} cannot be read: {problem}"
            if self._attempts[dataset.id] >= ATTEMPTS:
                raise runner.Never(f"{reason} Tried {ATTEMPTS} times.") from problem
            raise runner.NotNow(reason, self._retry_s) from problem


class _Effect:
    """A `runner.Effect` that collects; `Consumer.transaction` writes it all at its end."""

    def __init__(self, pending: _Pending, members: Callable[[models.PublishedModel], Sequence[lineage.Member]]) -> None:
        self._pending = pending
        self._members = members

    def apply(self, record: port.Record) -> None:
        """MalformedRecord for bytes that are no such record; tombstones pass: nothing the ledger knows is undone."""
        if not record.value:
            return
        match record.topic:
            case topics.COMPLETIONS.name:
                completion = schemas.decode(record.value, record.headers, completions.Completion)
                arrival = completion_store.Arrival(record, completion, _answer_of(completion))
                self._pending.judged.answered.append(arrival)
            case topics.FEEDBACK.name:
                event = schemas.decode(record.value, record.headers, feedback.FeedbackEvent)
                received = events.receive(event, partition=record.partition, offset=record.offset)
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
    store: database.Database,
    artifacts: Artifacts,
    *,
    on_emitted: Callable[[], None],
    on_caught_up: Callable[[], None],
    stop: threading.Event,
) -> None:
    """Consumes until `stop` is set. Blocks: a process runs it in a thread."""
    while not stop.is_set():
        try:
            restoring.take_back(log, store)
            on_emitted()
            handler = Consumer(
                store, artifacts, targets=_targets(log, store), on_emitted=on_emitted, on_caught_up=on_caught_up
            )
        except errors.LogUnavailable as problem:
            _log.warning("not now", consumer=NAME, reason=str(problem))
            stop.wait(runner.LOG_AWAY_DELAY_S)
            continue
        runner.Runner(log, TOPICS, handler, consumer=NAME, batch=BATCH).run(stop)


def _targets(log: port.EventLog, store: database.Database) -> dict[port.TopicPartition, int]:
    """Where to be before the ledger is ready: the end of each partition that still has records to read."""
    with store.read() as connection:
        positions = offsets.load(connection, [topic.name for topic in TOPICS])
    ends = {source: end for topic in TOPICS for source, end in log.end_offsets(topic.name).items()}
    targets = {}
    for source, end in ends.items():
        start = positions.get(source, 0)
        with contextlib.closing(log.reader({source: start})) as reader:
            if start < end and reader.poll(1, timeout_s=0.0):
                targets[source] = end
    return targets


def _answer_of(completion: completions.Completion) -> answers.Answer:
    """MalformedRecord for what could never be found again."""
    if not completion.context.tenant or not completion.context.session_hash:
        raise errors.MalformedRecord("Its `context.tenant` or `context.session_hash` is empty.")
    try:
        return answers.answer_of(completion)
    except errors.ForgedCompletionId as problem:
        raise errors.MalformedRecord(f"Its `id` is no completion id: {problem}") from problem


def _member(line: str) -> lineage.Member:
    values = json.loads(line)
    return lineage.Member(values["example_id"], values["disposition"], values.get("reason", ""))
