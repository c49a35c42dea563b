"""A platform's folder of every released version: today's code reads all of it, and makes the same of it."""

import collections
import contextlib
import pathlib
import shutil
import threading
from collections.abc import Iterator

import apsw
import pytest
from tests.broker import shared
from tests.faults import reading
from tests.integration.upgrade import recorded
from tests.unit.ledger import making
from tools import record_platform

from trimtab import registry
from trimtab.bus import connect, kafka, letters, port, topics
from trimtab.cli.machine import artifacts, platform
from trimtab.cli.operators import auditing
from trimtab.core import examples, ledger, lines, models, runs
from trimtab.ledger import consumer, counting, outbox
from trimtab.ledger.store import database
from trimtab.trainer.data import cutting, datasets, store
from trimtab.trainer.runs import runbook
from trimtab.wire import schemas

TENANT, LINE = "local", "main"


@pytest.fixture(scope="module", params=recorded.ALL, ids=lambda recording: recording.version)
def recording(request: pytest.FixtureRequest) -> recorded.Recording:
    assert isinstance(request.param, recorded.Recording)
    return request.param


@pytest.fixture
def layout(recording: recorded.Recording, tmp_path: pathlib.Path) -> platform.Layout:
    return recording.unpack(tmp_path)


@pytest.fixture
def log(layout: platform.Layout) -> Iterator[port.EventLog]:
    with contextlib.closing(connect.open_log(layout.log_url)) as opened:
        yield opened


@pytest.fixture
def artifacts_of(layout: platform.Layout) -> registry.Registry:
    return artifacts.open_registry(layout)


def catch_up(log: port.EventLog, store: registry.Registry, url: str) -> dict[str, object]:
    """What a ledger counts once it has read the log; it publishes what it has to tell, and is gone."""
    found = database.Database(url)
    publisher, stop = outbox.Publisher(log, found), threading.Event()
    consumer.run(log, found, store, on_emitted=publisher.wake, on_caught_up=stop.set, stop=stop)
    while publisher.publish_some():
        pass
    counts = counting.counts(found, ledger.CountsRequest(TENANT, LINE))
    found.close()
    return recorded.plain(counts)


def test_a_version_is_recorded_once() -> None:
    """What it wrote then is what later ones have to read: nobody renews it by accident."""
    assert record_platform.version() in {one.version for one in recorded.ALL}
    with pytest.raises(SystemExit, match=r"is recorded\. Raise the version, or delete"):
        record_platform.main()


def test_every_format_of_the_recording_is_in_it(recording: recorded.Recording) -> None:
    """A recording that lacks a kind of record proves nothing about it."""
    assert set(recording.golden["records"]) == {
        "audit/1",
        "completion/1",
        "deadletter-settled/1",
        "deadletter/1",
        "example/1",
        "feedback/1",
        "model/1",
        "release/1",
        "score/1",
    }


def test_every_record_is_read(recording: recorded.Recording, layout: platform.Layout, log: port.EventLog) -> None:
    found = collections.Counter(
        record.headers[schemas.SCHEMA_HEADER].decode()
        for topic in topics.ALL.values()
        for record in reading.records(log, topic)
    )
    assert found == recording.golden["records"]
    assert recorded.unreadable(log) == recorded.refused(layout)


@pytest.mark.parametrize("name", ["ledger", "older", "made anew"])
def test_a_ledger_counts_the_same(
    recording: recorded.Recording,
    layout: platform.Layout,
    log: port.EventLog,
    artifacts_of: registry.Registry,
    name: str,
) -> None:
    """With the recorded database, with one whose tables are of an older version, and without any; readers are told
    nothing."""
    published = log.end_offsets(topics.EXAMPLES.name)
    path = layout.state / f"{name}.sqlite"
    if name == "older":
        shutil.copy(layout.ledger, path)
        with contextlib.closing(apsw.Connection(str(path))) as tables:
            tables.execute("PRAGMA user_version = 1; DROP TABLE votes; CREATE TABLE votes (example_id TEXT)")
    counts = catch_up(log, artifacts_of, f"sqlite:///{path}")
    assert recorded.known_then(recording, counts) == recording.golden["counts"]
    assert log.end_offsets(topics.EXAMPLES.name) == published


def test_a_kafka_with_the_same_records_counts_the_same(
    recording: recorded.Recording,
    log: port.EventLog,
    artifacts_of: registry.Registry,
    kafka_address: str,
    tmp_path: pathlib.Path,
) -> None:
    """As if the platform had run on one: every record at its place, but for the gaps that compaction left."""
    with shared.own(kafka_address) as made, contextlib.closing(kafka.KafkaLog(made)) as copy:
        kafka.create_topics(made)
        for topic in topics.ALL.values():
            there = reading.records(log, topic)
            places = copy.append(
                [port.NewRecord(one.topic, one.key, one.value, one.headers, one.partition) for one in there]
            ).result()
            kept = topic.cleanup is not topics.Cleanup.COMPACT
            assert not kept or places == [port.Position(one.topic, one.partition, one.offset) for one in there]
        counts = catch_up(copy, artifacts_of, f"sqlite:///{tmp_path}/ledger.sqlite")
        assert recorded.known_then(recording, counts) == recording.golden["counts"]
        assert recorded.unreadable(copy) == recorded.unreadable(log)


def test_the_same_examples_follow_from_completions_and_feedback(
    layout: platform.Layout, log: port.EventLog, tmp_path: pathlib.Path
) -> None:
    refused = recorded.refused(layout)
    with making.ledger(f"sqlite:///{tmp_path}/folded.sqlite") as folded:
        for topic in (topics.COMPLETIONS, topics.FEEDBACK):
            folded.feed(one for one in reading.records(log, topic) if letters.place_of(one) not in refused)
        found = making.without_place(folded.newest())
    told = [schemas.decode(one.value, one.headers, examples.Example) for one in reading.records(log, topics.EXAMPLES)]
    newest = {one.id: one for one in sorted(told, key=lambda one: one.revision)}
    assert len(found) > 90
    assert found == making.without_place({id_: one for id_, one in newest.items() if not one.withdrawn})


def test_every_verdict_is_computed_again_to_the_bit(log: port.EventLog) -> None:
    found = auditing.audited(log, auditing.chosen(log, ""))
    assert [(one.computed, one.release.state.value) for one in found] == [(found[0].recorded, "promoted")]


def test_every_artifact_is_there_and_whole(log: port.EventLog, artifacts_of: registry.Registry) -> None:
    kinds = collections.Counter(manifest.kind for manifest in artifacts_of.list())
    assert set(kinds) == set(models.ModelKind) - {models.ModelKind.BASE}
    for manifest in artifacts_of.list():
        assert artifacts_of.fetch(manifest.id).is_dir()
    announced = reading.decoded(log, topics.MODELS, models.PublishedModel)
    assert {one.id for one in announced} <= {manifest.id for manifest in artifacts_of.list()}


def test_the_trainer_cuts_the_same_data_set_again(layout: platform.Layout, artifacts_of: registry.Registry) -> None:
    kept = store.Store(layout.state / "trainer" / "trainer.db")
    [run] = [one for one in runbook.Runbook(kept).find(TENANT, LINE) if one.spec.kind is runs.RunKind.REWARD]
    with kept.transaction() as connection:
        [arrival] = connection.execute(store.RUNS.select().where(store.RUNS.c.id == run.id)).scalars("cut_arrival")
        stored = store.examples_until(connection, TENANT, LINE, arrival)
    kept.close()
    cut = cutting.cut(stored, weighting=lines.load_lines(layout.lines)[LINE].weights)
    members = datasets.read_members(artifacts_of.fetch(run.spec.dataset_id))
    assert cut.members == members
    assert collections.Counter(one.disposition for one in members)[datasets.TRAINED] > 0
