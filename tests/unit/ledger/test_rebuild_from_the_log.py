"""A lost database is rebuilt from the log, and readers of `examples` are told nothing twice and nothing new."""

import pathlib
import threading
from collections.abc import Iterator

import pytest
from tests.postgres.stores import Stores
from tests.unit.ledger import making

from trimtab.bus import port, publish, topics
from trimtab.bus.sqlite import log as sqlite_log
from trimtab.core import completions, examples, feedback, ledger, text
from trimtab.ledger import consumer, counting, evidence, outbox
from trimtab.ledger.store import database
from trimtab.wire import schemas


@pytest.fixture
def log(tmp_path: pathlib.Path) -> Iterator[sqlite_log.SqliteLog]:
    made = sqlite_log.SqliteLog(tmp_path / "log.db")
    yield made
    made.close()


def write(log: port.EventLog, *values: completions.Completion | feedback.FeedbackEvent) -> None:
    """In this order, each durable before the next."""
    for value in values:
        topic = topics.COMPLETIONS if isinstance(value, completions.Completion) else topics.FEEDBACK
        assert value.context is not None
        publish.publish(log, topic, value.context.session_hash, value).result()


def catch_up(log: port.EventLog, url: str) -> tuple[ledger.CountsResponse, ledger.EvidenceResponse]:
    """A ledger's life: it consumes what is there, publishes what follows, answers, and is gone."""
    store = database.Database(url)
    publisher = outbox.Publisher(log, store)
    stop = threading.Event()
    consumer.run(log, store, making.NoArtifacts(), on_emitted=publisher.wake, on_caught_up=stop.set, stop=stop)
    while publisher.publish_some():
        pass
    counts = counting.counts(store, ledger.CountsRequest(making.TENANT, making.LINE))
    shown = evidence.evidence(store, ledger.EvidenceRequest(making.TENANT, "rel", 60.0), making.at(100.0))
    store.close()
    return counts, shown


def published(log: port.EventLog) -> list[port.Record]:
    ends = log.end_offsets(topics.EXAMPLES.name)
    reader = log.reader(dict.fromkeys(ends, 0))
    found: list[port.Record] = []
    while len(found) < sum(ends.values()):
        found += reader.poll(1000, 5.0)
    reader.close()
    return sorted(found, key=lambda record: (record.partition, record.offset))


def sequences(records: list[port.Record]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for record in records:
        example = schemas.decode(record.value, record.headers, examples.Example)
        assert example.partition == record.partition
        found.setdefault(example.partition, []).append(example.sequence)
    return found


def live(log: port.EventLog, url: str) -> None:
    """Votes before and after their answers, amended and taken back, stars and a demonstration; a few at a time."""
    for number in range(12):
        answer = making.completion(f"s{number}", exposure=making.exposed())
        first = making.thumb(answer, "first")
        if number % 3 == 0:
            write(log, first, answer)
        else:
            write(log, answer, first, first)
        catch_up(log, url)
        if number % 4 == 1:
            write(log, making.thumb(answer, "second", up=False, supersedes=["first"], rater="r"))
        if number % 4 == 2:
            write(log, making.event(feedback.Retraction(), "back", about=answer, supersedes=["first"]))
        if number % 4 == 3:
            write(log, making.event(feedback.Rating(making.ref(answer), 2, 5), "stars", about=answer))
            shown = feedback.Demonstration(answer.prompt, text.Text("so"))
            write(log, making.event(shown, "shown", about=answer, line=making.LINE))
    catch_up(log, url)


def test_a_rebuild_says_the_same_and_publishes_nothing(log: sqlite_log.SqliteLog, stores: Stores) -> None:
    live(log, stores.url("ledger"))
    before, records = catch_up(log, stores.url("ledger")), published(log)
    assert catch_up(log, stores.url("rebuilt")) == before
    assert published(log) == records
    assert before[0].examples == 9 + 3 * 2
    assert sorted(session.outcome or 0.0 for session in before[1].sessions)[-3:] == [1.0, 1.0, 1.0]
    assert sum(session.outcome == (1.0 + 0.25) / 2 for session in before[1].sessions) == 3


def test_after_a_rebuild_sequences_go_on_where_they_were(log: sqlite_log.SqliteLog, stores: Stores) -> None:
    live(log, stores.url("ledger"))
    catch_up(log, stores.url("rebuilt"))
    for number in range(12, 30):
        answer = making.completion(f"s{number}")
        write(log, answer, making.thumb(answer))
    catch_up(log, stores.url("rebuilt"))
    found = sequences(published(log))
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in found.values())


def test_votes_that_came_while_it_was_gone_are_the_only_news(log: sqlite_log.SqliteLog, stores: Stores) -> None:
    live(log, stores.url("ledger"))
    known = len(published(log))
    answer = making.completion("s0")
    write(log, making.thumb(answer, "later", rater="else"))
    catch_up(log, stores.url("rebuilt"))
    news = published(log)
    assert len(news) == known + 1
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in sequences(news).values())


def test_a_restored_older_database_catches_up_with_what_it_had_published(
    log: sqlite_log.SqliteLog, stores: Stores
) -> None:
    one, two = making.completion("s", 1), making.completion("s", 2)
    write(log, one, making.thumb(one))
    catch_up(log, stores.url("ledger"))
    stores.copy("ledger", "backup")
    write(log, making.thumb(one, "changed", up=False, occurred=5.0), two, making.thumb(two))
    before, records = catch_up(log, stores.url("ledger")), published(log)
    assert catch_up(log, stores.url("backup")) == before
    assert published(log) == records


def test_a_log_without_examples_is_folded_into_the_same_ones_again(log: sqlite_log.SqliteLog, stores: Stores) -> None:
    """The examples follow from completions and feedback alone, byte for byte but for place and revision."""
    live(log, stores.url("ledger"))
    with making.ledger(stores.url("ledger")) as first, making.ledger(stores.url("fresh")) as fresh:
        for topic in (topics.FEEDBACK, topics.COMPLETIONS):
            ends = log.end_offsets(topic.name)
            reader = log.reader(dict.fromkeys(ends, 0))
            while records := reader.poll(7, 0.0):
                fresh.feed(records)
            reader.close()
        assert making.without_place(fresh.newest()) == making.without_place(first.newest())


def test_what_was_not_marked_as_published_is_published_again_and_can_be_told(
    log: sqlite_log.SqliteLog, stores: Stores
) -> None:
    """A crash after the log took a batch and before the mark."""
    answer = making.completion(texts=["a", "b"])
    with making.ledger(stores.url()) as store:
        store.take(answer, making.thumb(answer, "one"), making.thumb(answer, "two", choice=1))
    stores.copy("ledger", "crashed")
    for name in ("ledger", "crashed"):
        store = database.Database(stores.url(name))
        assert outbox.Publisher(log, store).publish_some()
        assert not outbox.Publisher(log, store).publish_some()
        store.close()
    assert list(sequences(published(log)).values()) == [[1, 2, 1, 2]]
    first, second, *copies = [record.value for record in published(log)]
    assert copies == [first, second]


def test_an_example_that_this_version_cannot_read_stops_no_rebuild_and_its_number_is_not_given_again(
    log: sqlite_log.SqliteLog, stores: Stores
) -> None:
    """A newer ledger wrote the last one; the trainer has it as a dead letter and may be given it again."""
    votes = [making.completion("s", number) for number in range(4)]
    write(log, *votes, *(making.thumb(answer, f"vote-{number}") for number, answer in enumerate(votes)))
    catch_up(log, stores.url())
    *_, last = published(log)
    newer = port.NewRecord("examples", last.key, last.value, {schemas.SCHEMA_HEADER: b"example/2"}, last.partition)
    log.append([newer]).result()
    catch_up(log, stores.url("rebuilt"))
    answer = making.completion("s", 9)
    write(log, answer, making.thumb(answer))
    catch_up(log, stores.url("rebuilt"))
    readable = [one for one in published(log) if one.headers[schemas.SCHEMA_HEADER] == b"example/1"]
    assert sequences(readable) == {last.partition: [1, 2, 3, 4, 6]}
