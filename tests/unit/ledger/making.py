"""Records as the other processes write them, and a ledger that can be fed by hand."""

import contextlib
import dataclasses
import datetime
import pathlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from trimtab.bus import port, topics
from trimtab.core import completions, examples, feedback, ids, scoring, text
from trimtab.ledger import consumer
from trimtab.ledger.store import database, tables
from trimtab.wire import schemas

TENANT, LINE = "acme", "support"
RING = ids.KeyRing(keys={1: b"k" * 32}, current=1)
NOW = datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)


def at(seconds: float) -> datetime.datetime:
    return NOW + datetime.timedelta(seconds=seconds)


def session(name: str, tenant: str = TENANT) -> bytes:
    return ids.keyed_hash(b"hash key", tenant, name)


def completion(
    name: str = "s",
    number: int = 0,
    *,
    texts: Sequence[str] = ("an answer",),
    prompt: str = "a question",
    tenant: str = TENANT,
    line: str = LINE,
    store: bool = True,
    created: float = 0.0,
    exposure: completions.Exposure | None = None,
    origin: completions.Origin = completions.Origin.SERVED,
    segment: str = "",
) -> completions.Completion:
    """Completion `number` of session `name`: the same arguments, the same id."""
    token = ids.CompletionToken(
        ids.content_uuid(tenant, name, str(number)), session(name, tenant), b"r" * 8, completions.Arm.STABLE, True
    )
    return completions.Completion(
        id=ids.mint(token, tenant, RING),
        context=text.Context(tenant, line, session_hash=session(name, tenant), store=store),
        created_at=at(created),
        prompt=(text.Message(text.Role.USER, text.Text(prompt)),),
        responses=tuple(
            completions.Response(choice, text.Text(body), token_ids=(1, 2, 3)) for choice, body in enumerate(texts)
        ),
        origin=origin,
        policy_id="policy",
        exposure=exposure,
        latency_s=0.5,
        segment=segment,
    )


def exposed(
    release: str = "rel", arm: completions.Arm = completions.Arm.CANDIDATE, stage: str = "evidence", **other: Any
) -> completions.Exposure:
    values = {"propensity": 0.5, "randomised": True} | other
    return completions.Exposure(release_id=release, stage=stage, arm=arm, **values)


def event(
    kind: feedback.Kind,
    feedback_id: str = "f",
    *,
    about: completions.Completion | None = None,
    tenant: str = TENANT,
    bare: bool = False,
    occurred: float = 1.0,
    supersedes: Sequence[str] = (),
    rater: str = "",
    rater_kind: feedback.RaterKind = feedback.RaterKind.USER,
    network: str = "",
    line: str = "",
) -> feedback.FeedbackEvent:
    """As the feedback service writes it. `bare`: the completion was named by its UUID, so that nothing is verified."""
    targets = feedback.targets(kind)
    known = about.context.session_hash if about else session("s", tenant)
    if targets and bare:
        known = min(uuid.UUID(target.completion_id).bytes for target in targets)
    return feedback.FeedbackEvent(
        id=feedback_id,
        occurred_at=at(occurred),
        kind=kind,
        context=text.Context(tenant, line, session_hash=known),
        rater=feedback.Rater(rater_kind, rater, network),
        surface="chat",
        supersedes=tuple(supersedes),
        verified=not bare,
    )


def ref(about: completions.Completion, choice: int = 0, *, bare: bool = False) -> text.ResponseRef:
    return text.ResponseRef(str(ids.uuid_of(about.id)) if bare else about.id, choice)


def thumb(
    about: completions.Completion, feedback_id: str = "f", *, up: bool = True, choice: int = 0, **other: Any
) -> feedback.FeedbackEvent:
    target = ref(about, choice, bare=other.get("bare", False))
    return event(feedback.Thumb(target, up), feedback_id, about=about, **other)


def comparison(
    preferred: text.ResponseRef, rejected: text.ResponseRef, about: completions.Completion, **other: Any
) -> feedback.FeedbackEvent:
    return event(feedback.Comparison(preferred, rejected), about=about, **other)


class Sources:
    """Numbers records the way the log does."""

    def __init__(self) -> None:
        self._next: dict[port.TopicPartition, int] = {}

    def record(self, value: Any, topic: topics.Topic | None = None) -> port.Record:
        topic = topic or {
            completions.Completion: topics.COMPLETIONS,
            feedback.FeedbackEvent: topics.FEEDBACK,
            scoring.AnswerScore: topics.SCORES,
        }.get(type(value), topics.MODELS if hasattr(value, "parents") else topics.ROLLOUTS)
        source = port.TopicPartition(topic.name, ids.partition_of(value.context.session_hash, topic.partitions))
        offset = self._next.get(source, 0)
        self._next[source] = offset + 1
        data, headers = schemas.encode(value)
        return port.Record(*source, offset, NOW, value.context.session_hash, data, headers)


def without_place(found: dict[str, examples.Example]) -> dict[str, examples.Example]:
    """What is left when it does not matter when an example was made and how often it was revised."""
    return {name: dataclasses.replace(example, partition=0, sequence=0, revision=0) for name, example in found.items()}


class NoArtifacts:
    def fetch(self, model_id: str) -> pathlib.Path:
        raise FileNotFoundError(model_id)


@dataclasses.dataclass
class Ledger:
    """A real store and the real consumer, without a log around them."""

    store: database.Database
    consumer: consumer.Consumer
    sources: Sources = dataclasses.field(default_factory=Sources)

    def take(self, *values: Any) -> None:
        """One transaction with these records."""
        self.feed([self.sources.record(value) for value in values])

    def feed(self, records: Iterable[port.Record]) -> None:
        batch = list(records)
        with self.consumer.transaction() as effect:
            for record in batch:
                effect.apply(record)
            effect.save({record.source: record.offset + 1 for record in batch})

    def emitted(self) -> list[examples.Example]:
        """Everything that was put into the outbox, in order within each partition."""
        table = tables.OUTBOX
        with self.store.read() as connection:
            rows = connection.execute(table.select().order_by(table.c.partition, table.c.sequence)).all()
        return [schemas.decode(row.value, {schemas.SCHEMA_HEADER: row.schema}, examples.Example) for row in rows]

    def newest(self) -> dict[str, examples.Example]:
        """The newest revision of each example that was not withdrawn."""
        newest = {example.id: example for example in self.emitted()}
        return {name: example for name, example in newest.items() if not example.withdrawn}

    def statuses(self) -> dict[tuple[str, bytes, str, bytes], str]:
        """What became of every event, by identity and body."""
        with self.store.read() as connection:
            rows = connection.execute(tables.FEEDBACK.select()).all()
        return {
            (row.tenant, row.uuid, row.feedback_id, row.digest): f"{row.status} {row.reason}".strip() for row in rows
        }


@contextlib.contextmanager
def ledger(url: str, artifacts: Any = None) -> Iterator[Ledger]:
    store = database.Database(url)
    made = consumer.Consumer(
        store,
        artifacts or NoArtifacts(),
        targets={},
        on_emitted=lambda: None,
        on_caught_up=lambda: None,
        retry_s=0.0,
    )
    try:
        yield Ledger(store, made)
    finally:
        store.close()
