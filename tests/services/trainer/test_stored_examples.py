"""Examples and the place they were read from are one commit; copies count once."""

import asyncio
import dataclasses
import pathlib
import threading

import pytest
from tests.services.trainer.conftest import AT, LINE, TENANT, example, received, until

from trimtab.bus import port, publish, runner, topics
from trimtab.bus.sqlite import SqliteLog
from trimtab.core import errors, examples, text
from trimtab.trainer.data import consumer, store
from trimtab.wire import schemas
from trimtabapi.example.v1 import example_pb2

UP = examples.ThumbExample(text.Text("an answer"), up=True)


@pytest.fixture
def database(tmp_path: pathlib.Path) -> store.Store:
    return store.Store(tmp_path / "trainer.db")


def add(database: store.Store, *several: examples.Example) -> int:
    with database.transaction() as connection:
        return store.add_examples(connection, [received(one) for one in several])


def new_trainable(database: store.Store, since: int = 0) -> int:
    with database.reading() as connection:
        return store.count_new_trainable(connection, TENANT, LINE, since)


def test_a_copy_of_a_stored_example_is_dropped(database: store.Store) -> None:
    assert add(database, example(1, UP), example(1, UP), example(2, UP)) == 2
    assert add(database, example(1, UP), example(2, UP)) == 0
    assert new_trainable(database) == 2


def test_a_cut_sees_the_same_examples_whatever_arrived_since(database: store.Store) -> None:
    add(database, example(1, UP), example(2, UP))
    with database.reading() as connection:
        arrival = store.newest_arrival(connection)
        before = store.examples_until(connection, TENANT, LINE, arrival)
    add(database, example(3, UP), example(1, None, revision=2, sequence=77, withdrawn=True))
    with database.reading() as connection:
        assert store.examples_until(connection, TENANT, LINE, arrival) == before
    assert before == [example(1, UP), example(2, UP)]


def test_only_new_examples_that_still_stand_count_towards_a_trigger(database: store.Store) -> None:
    add(database, example(1, UP), example(2, UP))
    with database.reading() as connection:
        since = store.newest_arrival(connection)
    critique = examples.CritiqueExample(text.Text("an answer"), text.Text("dull"))
    add(database, example(1, UP, revision=2, sequence=50), example(3, UP), example(4, UP), example(5, critique))
    assert new_trainable(database, since) == 2
    add(database, example(4, None, revision=2, sequence=60, withdrawn=True))
    assert new_trainable(database, since) == 1
    add(database, example(6, UP, context=text.Context("other", LINE)))
    assert new_trainable(database, since) == 1


def test_an_effect_that_fails_leaves_neither_example_nor_offset(database: store.Store) -> None:
    handler = consumer.Examples(database)
    source = port.TopicPartition("examples", 1)

    class PowerCut(Exception):
        pass

    with pytest.raises(PowerCut), handler.transaction() as effect:
        one = received(example(1, UP))
        effect.apply(port.Record("examples", 1, 7, AT, b"", one.value, {schemas.SCHEMA_HEADER: one.schema}))
        effect.save({source: 8})
        raise PowerCut
    assert handler.positions() == {}
    assert new_trainable(database) == 0


async def test_what_the_log_holds_is_stored_once_however_often_the_consumer_starts(
    database: store.Store, tmp_path: pathlib.Path
) -> None:
    log = SqliteLog(tmp_path / "log.db")
    for number in range(40):
        for _ in range(2):
            publish.publish(log, topics.EXAMPLES, bytes([number % 7]), example(number, UP)).result(10)
    log.append([port.NewRecord("examples", b"x", b"no protobuf at all")]).result(10)
    ends = {source: end for source, end in log.end_offsets("examples").items() if end}
    handler = consumer.Examples(database)

    async def read_to_the_end() -> bool:
        return handler.positions() == ends

    for _ in range(2):
        stop = threading.Event()
        consuming = runner.Runner(log, [topics.EXAMPLES], handler, consumer="trainer")
        thread = threading.Thread(target=consuming.run, args=(stop,))
        thread.start()
        await until(read_to_the_end)
        stop.set()
        await asyncio.to_thread(thread.join, 10)
    dead = sum(log.end_offsets("deadletter").values())
    log.close()
    assert new_trainable(database) == 40
    assert dead == 1


def test_a_database_of_before_cycles_ended_with_a_release_is_taken_over(tmp_path: pathlib.Path) -> None:
    """What its ended cycles had taken up does not count as new, and another one can begin."""
    path = tmp_path / "trainer.db"
    before = store.Store(path)
    add(before, example(1, UP), example(2, UP))
    cycle = {"tenant": TENANT, "line": LINE, "anchor_id": "a", "cut_arrival": 2}
    with before.transaction() as connection:
        connection.execute(store.CYCLES.insert().values(number=1, state="ended", **cycle))
        connection.exec_driver_sql("ALTER TABLE cycles DROP COLUMN end_arrival")
    before.close()
    for _ in range(2):
        database = store.Store(path)
        with database.transaction() as connection:
            assert connection.execute(store.CYCLES.select()).one().end_arrival == 2
        database.close()
    with store.Store(path).transaction() as connection:
        connection.execute(store.CYCLES.insert().values(number=2, state="cutting", **cycle))


def test_a_database_of_a_newer_trainer_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "trainer.db"
    made = store.Store(path)
    add(made, example(1, UP))
    with made.transaction() as connection:
        connection.exec_driver_sql(f"PRAGMA user_version = {store.VERSION + 1}")
    made.close()
    with pytest.raises(errors.WrongState, match=f"is of version {store.VERSION + 1}, and this trainer knows up to"):
        store.Store(path)


def test_an_example_of_a_kind_that_only_a_newer_ledger_knows_is_a_dead_letter_not_a_withdrawn_one(
    database: store.Store,
) -> None:
    handler, known = consumer.Examples(database), received(example(1, UP))
    message = example_pb2.Example.FromString(known.value)
    message.ClearField("kind")
    record = port.Record("examples", 0, 0, AT, b"", message.SerializeToString(), {schemas.SCHEMA_HEADER: known.schema})
    said = "`kind` is missing, or one that only a newer version knows"
    with pytest.raises(errors.MalformedRecord, match=said), handler.transaction() as effect:
        effect.apply(record)
    message.withdrawn = True
    with handler.transaction() as effect:
        effect.apply(dataclasses.replace(record, value=message.SerializeToString()))
    assert new_trainable(database) == 0
