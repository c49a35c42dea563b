"""A record that was replayed, twice or beside its original, has the effect of one, whatever kind of record it is."""

import dataclasses
import pathlib
from typing import Any

import pytest
from tests.unit.ledger import making
from tests.wire import records as written

from trimtab.bus import letters, port, publish, topics
from trimtab.bus.sqlite import SqliteLog
from trimtab.core import completions, errors, feedback, models, releases, scoring, text
from trimtab.gateway import routing
from trimtab.ledger.store import tables
from trimtab.reward import catalog
from trimtab.rollout import book
from trimtab.trainer.data import consumer as trainer_consumer
from trimtab.trainer.data import store as trainer_store
from trimtab.trainer.links import known
from trimtab.wire import schemas

ANSWER = making.completion(texts=("one", "two"), exposure=making.exposed())
REF, OTHER = making.ref(ANSWER), making.ref(ANSWER, 1)
KINDS = {
    "thumb": feedback.Thumb(REF, True),
    "rating": feedback.Rating(REF, 4, 5),
    "comparison": feedback.Comparison(REF, OTHER, 0.5),
    "ranking": feedback.Ranking((feedback.RankedResponse(REF, 1), feedback.RankedResponse(OTHER, 2))),
    "edit": feedback.Edit(REF, text.Text("better")),
    "demonstration": feedback.Demonstration((text.Message(text.Role.USER, text.Text("q")),), text.Text("a")),
    "critique": feedback.Critique(REF, text.Text("too long")),
    "signal": feedback.Signal(REF, feedback.SignalKind.COPY),
    "retraction": feedback.Retraction("by mistake", ANSWER.id),
}
CONTEXT = text.Context(making.TENANT, making.LINE)
MODEL = models.PublishedModel("m" * 64, CONTEXT, models.ModelKind.REWARD, making.NOW, parents=("p" * 64,))
RELEASE = releases.Release(
    "rel", CONTEXT, 1, MODEL.id, "", "", releases.ReleaseState.EVIDENCE, b"salt", created_at=making.NOW, generation=2
)
SCORE = scoring.AnswerScore(ANSWER.id, ANSWER.context, "rel", MODEL.id, "d" * 64, making.NOW, 0.5)
RECORDS: dict[str, tuple[Any, topics.Topic | None]] = {
    "completion": (ANSWER, None),
    "score": (SCORE, None),
    "model": (MODEL, None),
    "release": (RELEASE, None),
    "audit": (written.RECORDS["audit"], topics.AUDIT),
    **{name: (making.event(kind, "f", about=ANSWER, line=making.LINE), None) for name, kind in KINDS.items()},
}


def replayed(record: port.Record, offset: int) -> port.Record:
    """The record as a replay puts it behind others."""
    headers = record.headers | {letters.REPLAYED_FROM: str(letters.place_of(record)).encode()}
    return dataclasses.replace(record, offset=offset, headers=headers)


def contents(made: making.Ledger) -> dict[str, list[Any]]:
    """Every table without positions, and without how often an event came."""
    found = {}
    with made.store.read() as connection:
        for table in tables.METADATA.sorted_tables:
            if table is not tables.OFFSETS:
                columns = [column for column in table.c if column.name not in ("copies", "changed")]
                rows = connection.execute(table.select().with_only_columns(*columns)).all()
                found[table.name] = sorted(map(repr, rows))
    return found


@pytest.mark.parametrize("name", RECORDS)
def test_the_ledger_takes_every_kind_of_record_once(name: str, ledger: making.Ledger) -> None:
    value, topic = RECORDS[name]
    if name not in ("completion", "model"):
        ledger.take(ANSWER)
    empty = contents(ledger)
    record = ledger.sources.record(value, topic)
    ledger.feed([replayed(record, 7)])
    once = contents(ledger)
    assert once != empty
    ledger.feed([replayed(record, 8)])
    ledger.feed([replayed(record, 9), replayed(record, 10)])
    assert contents(ledger) == once


@pytest.mark.parametrize("name", [*KINDS])
def test_an_event_counts_where_it_stood_first_also_after_a_rebuild_that_reads_the_original(
    name: str, ledger: making.Ledger, tmp_path: pathlib.Path
) -> None:
    """Refused at first; then another body came under its id; then it was replayed to a consumer that reads it."""
    first = making.event(KINDS[name], "f", about=ANSWER, line=making.LINE, rater="first")
    other = dataclasses.replace(first, rater=feedback.Rater(feedback.RaterKind.USER, "other"))
    original, later = ledger.sources.record(first), ledger.sources.record(other)
    answer = ledger.sources.record(ANSWER)
    ledger.feed([answer, later])
    ledger.feed([replayed(original, 7)])
    assert sorted(ledger.statuses().values())[0].startswith("conflict")
    with making.ledger(f"sqlite:///{tmp_path}/rebuilt.db") as rebuilt:
        rebuilt.feed([answer, original, later, replayed(original, 7)])
        assert rebuilt.statuses() == ledger.statuses()
        assert making.without_place(rebuilt.newest()) == making.without_place(ledger.newest())


def test_an_older_record_of_a_release_does_not_take_the_place_of_the_newer(ledger: making.Ledger) -> None:
    older, newer = (ledger.sources.record(dataclasses.replace(RELEASE, revision=number)) for number in (1, 2))
    ledger.feed([newer])
    stands = contents(ledger)
    ledger.feed([replayed(older, 7)])
    assert contents(ledger) == stands


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_counted_with_must_be_a_number(wrong: float, ledger: making.Ledger) -> None:
    unusable = making.event(feedback.Comparison(REF, OTHER, wrong), about=ANSWER)
    for value, named in (
        (making.completion(exposure=making.exposed(propensity=wrong)), "propensity"),
        (dataclasses.replace(ANSWER, latency_s=wrong), "latency_s"),
        (dataclasses.replace(ANSWER, measured=completions.Measured(tokens=wrong)), "tokens"),
        (unusable, "strength"),
    ):
        with pytest.raises(errors.MalformedRecord, match=rf"`{named}` is {wrong}"):
            ledger.take(value)
    ledger.take(ANSWER)


def test_a_score_that_is_no_number_is_kept_as_none_with_its_reason(ledger: making.Ledger) -> None:
    ledger.take(ANSWER, dataclasses.replace(SCORE, outcome=float("nan")))
    with ledger.store.read() as connection:
        (row,) = connection.execute(tables.SCORES.select()).all()
    assert (row.reward, row.reason) == (None, "the reward is nan")


def test_nothing_at_all_is_no_feedback_and_a_tombstone_of_models_is(ledger: making.Ledger) -> None:
    empty = dataclasses.replace(ledger.sources.record(making.thumb(ANSWER)), value=b"")
    with pytest.raises(errors.MalformedRecord):
        ledger.feed([empty])
    ledger.feed([dataclasses.replace(ledger.sources.record(MODEL), value=b"")])


def test_the_trainer_takes_an_example_once_by_its_number(tmp_path: pathlib.Path) -> None:
    database = trainer_store.Store(tmp_path / "trainer.db")
    example = written.RECORDS["examples"]
    value, headers = schemas.encode(example)
    record = port.Record("examples", 3, 5, making.NOW, b"k", value, headers)
    handler = trainer_consumer.Examples(database)
    with handler.transaction() as effect:
        for each in (record, replayed(record, 6), replayed(record, 7)):
            effect.apply(each)
        effect.save({record.source: 8})
    with database.reading() as connection:
        assert trainer_store.newest_arrival(connection) == 1
    unusable = dataclasses.replace(example, propensity=float("nan"))
    pair = dataclasses.replace(example, kind=dataclasses.replace(example.kind, strength=float("inf")))
    for wrong in (unusable, pair):
        value, headers = schemas.encode(dataclasses.replace(wrong, sequence=42))
        with pytest.raises(errors.MalformedRecord, match="no numbers"), handler.transaction() as effect:
            effect.apply(dataclasses.replace(record, value=value, headers=headers))
    database.close()


def folded(record: Any, *, offset: int = 0) -> port.Record:
    topic = "models" if isinstance(record, models.PublishedModel) else "rollouts"
    value, headers = schemas.encode(record)
    return port.Record(topic, 0, offset, making.NOW, record.id.encode(), value, headers)


def test_folds_keep_the_newest_release_and_the_latest_model_when_older_ones_are_replayed_behind_them() -> None:
    """Also after compaction and a restart, when the replayed record is the only one of its key."""
    old = dataclasses.replace(MODEL, id="a" * 64)
    new = dataclasses.replace(MODEL, id="b" * 64, published_at=making.at(60))
    for order in ((old, new, old), (new, old)):
        trainer, reward = known.Known(), catalog.Catalog()
        for number, model in enumerate(order):
            trainer.apply_model(folded(model, offset=number))
            reward.apply(folded(model, offset=number))
        assert trainer.incumbent(making.TENANT, making.LINE) == new.id
        assert reward.resolve(f"{making.LINE}@latest").id == new.id
    first = dataclasses.replace(RELEASE, id="first", revision=3, anchor_id="one")
    second = dataclasses.replace(RELEASE, id="second", revision=5, anchor_id="two")
    early = dataclasses.replace(second, revision=4, anchor_id="too early")
    trainer, routes = known.Known(), routing.Routes()
    routes.caught_up.set()
    for release in (second, first, early):
        trainer.apply_release(folded(release))
        routes.apply(release)
    assert trainer.anchor_and_live(making.TENANT, making.LINE)[0] == "two"
    assert routes.select(making.TENANT, making.LINE).release == second


def test_the_controller_keeps_the_newest_record_of_a_release_and_passes_over_what_cannot_be_read(
    tmp_path: pathlib.Path,
) -> None:
    log = SqliteLog(tmp_path / "log.db")
    later = dataclasses.replace(RELEASE, revision=2, state=releases.ReleaseState.PROMOTED)
    log.append([port.NewRecord("rollouts", b"x", b"\xff", {"trimtab-schema": b"release/1"})]).result()
    for release in (RELEASE, later, RELEASE):
        publish.publish(log, topics.ROLLOUTS, b"rel", release).result()
    pages = book.Book(log)
    pages.refresh()
    (line,) = pages.lines.values()
    assert (line.head, pages.disputed) == (later, set())
    pages.append([dataclasses.replace(later, paused=True)], generation=2)
    assert pages.lines[making.TENANT, making.LINE].head.revision == 3
    pages.close()
    log.close()
