"""A writer of the embedded log killed anywhere: what it acknowledged is there, once and in order, and others go on."""

import contextlib
import pathlib

import pytest
from tests.faults import killing

from trimtab.bus import deadletter, port, runner, topics
from trimtab.bus.sqlite import SqliteLog
from trimtab.core import audit, examples, text
from trimtab.trainer.data import consumer, store
from trimtab.wire import schemas

WALKED = [*killing.under("bus.")]
PLACE = port.TopicPartition("audit", 0)
COMPACTED = port.TopicPartition("rollouts", 0)


def append(folder: pathlib.Path, first: int, last: int) -> None:
    """Appends numbers one by one; what was acknowledged goes into a file."""
    log = SqliteLog(folder / "log.db")
    with (folder / "acknowledged").open("a", buffering=1) as said:
        for number in range(first, last):
            log.append([port.NewRecord("audit", b"k", str(number).encode())]).result()
            said.write(f"{number}\n")
    log.close()


def read(folder: pathlib.Path, place: port.TopicPartition) -> list[port.Record]:
    log = SqliteLog(folder / "log.db")
    with contextlib.closing(log.reader({place: 0})) as reader:
        found: list[port.Record] = []
        while records := reader.poll(1000, 0.0):
            found += records
    log.close()
    return found


@pytest.mark.parametrize("point", [f"{point}:{nth}" for point in killing.under("bus.write.") for nth in (1, 4)])
def test_what_was_acknowledged_is_there_once_and_the_next_writer_goes_on(point: str, tmp_path: pathlib.Path) -> None:
    killing.kill(point, append, tmp_path, 0, 6)
    acknowledged = [int(line) for line in (tmp_path / "acknowledged").read_text().splitlines()]
    stored = [int(record.value) for record in read(tmp_path, PLACE)]
    # one more may stand there: durable, and its writer died before it could say so
    assert stored[: len(acknowledged)] == acknowledged
    assert len(stored) - len(acknowledged) == ("committed" in point)
    killing.run(append, tmp_path, 100, 103)
    after = read(tmp_path, PLACE)
    assert [int(record.value) for record in after] == [*stored, 100, 101, 102]
    assert [record.offset for record in after] == list(range(len(after)))


def write_over(folder: pathlib.Path, count: int) -> None:
    log = SqliteLog(folder / "log.db")
    records = [port.NewRecord("rollouts", str(n % 3).encode(), str(n).encode()) for n in range(count)]
    log.append(records).result()
    log.close()


def clean(folder: pathlib.Path) -> None:
    log = SqliteLog(folder / "log.db")
    log.clean()
    log.close()


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_cleaning_that_was_interrupted_lost_no_newest_record_and_is_finished_by_the_next(
    nth: int, tmp_path: pathlib.Path
) -> None:
    killing.run(write_over, tmp_path, 1500)
    killing.kill(f"bus.clean.before_piece:{nth}", clean, tmp_path)
    newest = {record.key: int(record.value) for record in read(tmp_path, COMPACTED)}
    assert newest == {b"0": 1497, b"1": 1498, b"2": 1499}
    killing.run(clean, tmp_path)
    assert [int(record.value) for record in read(tmp_path, COMPACTED)] == [1497, 1498, 1499]


def consume(folder: pathlib.Path) -> None:
    """The trainer's consumer of examples, until it has read everything."""
    log = SqliteLog(folder / "log.db")
    database = store.Store(folder / "trainer.db")
    handler = consumer.Examples(database)
    ends = log.end_offsets(topics.EXAMPLES.name)

    class Stop:
        def is_set(self) -> bool:
            return all(handler.positions().get(source, 0) >= end for source, end in ends.items())

        def wait(self, seconds: float) -> bool:
            return self.is_set()

    runner.Runner(log, [topics.EXAMPLES], handler, consumer="trainer", batch=runner.Batch(poll_s=0.0)).run(Stop())  # type: ignore[arg-type]
    database.close()
    log.close()


def mix(folder: pathlib.Path) -> None:
    """Examples with one between them that nobody can read."""
    from tests.services.trainer import conftest

    log = SqliteLog(folder / "log.db")
    for number in range(5):
        value, headers = schemas.encode(conftest.example(number, examples.ThumbExample(text.Text("yes"), up=True)))
        content = b"\xff\xff" if number == 2 else value
        log.append([port.NewRecord("examples", b"k", content, headers, partition=0)]).result()
    log.close()


def test_a_consumer_killed_after_a_dead_letter_moves_past_it_and_handles_the_rest_once(tmp_path: pathlib.Path) -> None:
    killing.run(mix, tmp_path)
    killing.kill("bus.deadletter.buried", consume, tmp_path)
    killing.run(consume, tmp_path)
    letters = [
        schemas.decode(record.value, record.headers, audit.DeadLetter)
        for record in read(tmp_path, port.TopicPartition("deadletter", 0))
    ]
    # known after the crash by its source, and not written again
    assert [(letter.topic, letter.partition, letter.offset) for letter in letters] == [("examples", 0, 2)]
    database = store.Store(tmp_path / "trainer.db")
    with database.reading() as connection:
        kept = store.examples_until(connection, "acme", "support", 99)
        assert store.positions(connection)[port.TopicPartition("examples", 0)] == 5
    database.close()
    assert [example.sequence for example in kept] == [0, 1, 3, 4]
    assert deadletter.Limit().consecutive > 1
    assert all(isinstance(example, examples.Example) for example in kept)
