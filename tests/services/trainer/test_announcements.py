"""A model is announced once, whatever became of the acknowledgement."""

import concurrent.futures
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests import timing
from tests.services.trainer.conftest import LINE, TENANT, Installation
from tests.services.trainer.test_cycles import OneHolder

from trimtab.bus import connect, fold, port, topics
from trimtab.core import errors
from trimtab.trainer.links import known, publishing


class LosesTheFirst:
    """A log that stores an append and says that it has not: its acknowledgement came too late."""

    def __init__(self, log: port.EventLog) -> None:
        self._log, self._lost = log, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def append(self, records: Any) -> "concurrent.futures.Future[list[port.Position]]":
        stored = self._log.append(records)
        if self._lost:
            return stored
        self._lost = True
        stored.result()
        said: concurrent.futures.Future[list[port.Position]] = concurrent.futures.Future()
        said.set_exception(errors.LogUnavailable("The event log did not answer in time."))
        return said


@pytest.fixture
def log(installation: Installation) -> Iterator[port.EventLog]:
    opened = connect.open_log(installation.log_url)
    yield opened
    opened.close()


def test_one_that_timed_out_and_is_stored_is_not_announced_again(
    installation: Installation, log: port.EventLog, tmp_path: pathlib.Path
) -> None:
    """Also while this process has not read the topic so far."""
    topics_say = known.Known()
    loses: Any = LosesTheFirst(log)
    publisher = publishing.Publisher(
        log=loses, store=installation.registry, topics_say=topics_say, link=OneHolder(), config_digest=""
    )
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "examples.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    before = len(installation.records(topics.MODELS))
    stop, reads_on = threading.Event(), threading.Event()

    def apply(record: port.Record) -> None:
        if record.offset >= before:
            reads_on.wait(timing.PATIENCE_S)
        topics_say.apply_model(record)

    reading = threading.Thread(target=fold.follow, args=(log, topics.MODELS, apply, stop, lambda: None))
    reading.start()
    try:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            with pytest.raises(errors.LogUnavailable, match="in time"):
                publisher.publish_dataset(TENANT, LINE, folder, {"cut": "of a test"})
            again = pool.submit(publisher.publish_dataset, TENANT, LINE, folder, {"cut": "of a test"})
            with pytest.raises(TimeoutError):
                again.result(1.0)  # it waits for what it has not read
            reads_on.set()
            assert again.result(timing.PATIENCE_S)
    finally:
        reads_on.set()
        stop.set()
        reading.join(timing.PATIENCE_S)
    assert len(installation.records(topics.MODELS)) == before + 1


def test_a_record_that_nobody_can_read_does_not_keep_others_from_being_announced(
    installation: Installation, log: port.EventLog
) -> None:
    topics_say = known.Known()
    log.append([port.NewRecord(topics.MODELS.name, b"k", b"no model")]).result()
    (*_, record) = installation.records(topics.MODELS)
    with pytest.raises(errors.TrimtabError):
        topics_say.apply_model(record)
    assert topics_say.await_record(record.offset, 0.0)
