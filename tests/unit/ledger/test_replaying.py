"""What a ledger knew at earlier offsets comes out of the log again, or it is said that the log does not reach back."""

import dataclasses
import datetime
import pathlib
import threading
from collections.abc import Iterator

import pytest
from tests.postgres.stores import Stores
from tests.unit.ledger import making

from trimtab.bus import letters, port, publish, topics
from trimtab.bus.sqlite import log as sqlite_log
from trimtab.core import clock, completions, errors, feedback, ledger, scoring, text
from trimtab.ledger import consumer, evidence, replaying
from trimtab.ledger.store import database

REQUEST = ledger.EvidenceRequest(making.TENANT, "rel", 60.0)
LATER = datetime.timedelta(days=800)


class AgeingLog(sqlite_log.SqliteLog):
    """Its clock can be moved."""

    def __init__(self, path: pathlib.Path) -> None:
        self.passed = datetime.timedelta()
        super().__init__(path, now=lambda: clock.utc_now() + self.passed)


@pytest.fixture
def log(tmp_path: pathlib.Path) -> Iterator[AgeingLog]:
    made = AgeingLog(tmp_path / "log.db")
    yield made
    made.close()


TOPICS = {
    completions.Completion: topics.COMPLETIONS,
    feedback.FeedbackEvent: topics.FEEDBACK,
    scoring.AnswerScore: topics.SCORES,
}


def write(log: port.EventLog, *values: completions.Completion | feedback.FeedbackEvent | scoring.AnswerScore) -> None:
    for value in values:
        topic = TOPICS[type(value)]
        assert value.context is not None
        publish.publish(log, topic, value.context.session_hash, value).result()


def known(log: port.EventLog, url: str) -> ledger.EvidenceResponse:
    """What a ledger says that has read all there is."""
    store = database.Database(url)
    stop = threading.Event()
    consumer.run(log, store, making.NoArtifacts(), on_emitted=lambda: None, on_caught_up=stop.set, stop=stop)
    try:
        return evidence.evidence(store, REQUEST, making.at(100.0))
    finally:
        store.close()


def replayed(log: AgeingLog, folder: pathlib.Path, upto: dict[str, int], since: datetime.datetime):
    folder.mkdir()
    store = replaying.scratch(folder)
    try:
        replaying.replay(log, store, upto, since, now=lambda: clock.utc_now() + log.passed)
        return evidence.evidence(store, REQUEST, making.at(100.0))
    finally:
        store.close()


def test_votes_that_came_later_are_not_there_yet(log: AgeingLog, tmp_path: pathlib.Path, stores: Stores) -> None:
    answers = [making.completion(f"s{number}", exposure=making.exposed()) for number in range(12)]
    votes = [making.thumb(answer, up=number % 3 == 0) for number, answer in enumerate(answers)]
    write(log, *votes[:3], *answers[:9], *votes[3:8])
    then = known(log, stores.url("ledger"))
    assert sum(one.votes for one in then.sessions) == 8
    taken_back = making.event(feedback.Retraction("misread"), "taken back", supersedes=votes[0].id)
    write(log, *answers[9:], *votes[8:], taken_back)
    now = known(log, stores.url("ledger"))
    assert now.sessions != then.sessions
    since = clock.utc_now() - datetime.timedelta(minutes=1)
    assert replayed(log, tmp_path / "then", then.consumed, since) == then
    assert replayed(log, tmp_path / "now", now.consumed, since) == now


def test_scores_that_came_later_are_not_there_yet(log: AgeingLog, tmp_path: pathlib.Path, stores: Stores) -> None:
    measured = completions.Measured(tokens=3.0)
    answers = [
        dataclasses.replace(making.completion(f"s{number}", exposure=making.exposed()), measured=measured)
        for number in range(6)
    ]
    given = [
        scoring.AnswerScore(one.id, one.context, "rel", "reward", "digest", making.at(2.0), float(number))
        for number, one in enumerate(answers)
    ]

    def rewards(found: ledger.EvidenceResponse) -> set[float | None]:
        return {one.first.reward for one in found.sessions if one.first is not None}

    write(log, *answers)
    before = known(log, stores.url("ledger"))
    assert not any(name.startswith("scores") for name in before.consumed)
    write(log, *given[:3])
    then = known(log, stores.url("ledger"))
    write(log, *given[3:])
    now = known(log, stores.url("ledger"))
    assert [rewards(one) for one in (before, then, now)] == [{None}, {None, 0, 1, 2}, {0, 1, 2, 3, 4, 5}]
    since = clock.utc_now() - datetime.timedelta(minutes=1)
    for name, at_the_time in (("before", before), ("then", then), ("now", now)):
        assert replayed(log, tmp_path / name, at_the_time.consumed, since) == at_the_time
    # a database that was lost and folds everything again
    assert known(log, stores.url("again")) == now


def test_a_record_that_no_ledger_could_read_is_passed_over_again(
    log: AgeingLog, tmp_path: pathlib.Path, stores: Stores
) -> None:
    answer = making.completion(exposure=making.exposed())
    key = text.Context(making.TENANT, making.LINE, session_hash=making.session("s")).session_hash
    log.append([port.NewRecord(topics.FEEDBACK.name, key, b"\xff no protobuf", {})]).result()
    write(log, answer, making.thumb(answer))
    then = known(log, stores.url("ledger"))
    assert replayed(log, tmp_path / "then", then.consumed, clock.utc_now()) == then


def test_a_log_that_was_cleaned_up_since_says_so(log: AgeingLog, tmp_path: pathlib.Path, stores: Stores) -> None:
    since = clock.utc_now()
    answer = making.completion(exposure=making.exposed())
    write(log, answer, making.thumb(answer))
    then = known(log, stores.url("ledger"))
    log.passed = LATER
    log.clean()
    with pytest.raises(errors.WrongState, match="first records were cleaned up"):
        replayed(log, tmp_path / "gone", then.consumed, since)
    other = making.completion(number=1, exposure=making.exposed())
    write(log, other, making.thumb(other))
    now = {name: offset + 1 for name, offset in then.consumed.items()}
    with pytest.raises(errors.WrongState, match="first records were cleaned up"):
        replayed(log, tmp_path / "half", now, since)
    # Of a release that began after that, nothing is missing.
    found = replayed(log, tmp_path / "new", now, since + LATER)
    assert found.consumed == now
    assert [one.votes for one in found.sessions] == [1]


def test_what_was_refused_then_is_refused_again_though_it_is_read_by_now(
    log: AgeingLog, tmp_path: pathlib.Path
) -> None:
    answer = making.completion(exposure=making.exposed())
    write(log, answer)
    vote = publish.new_record(topics.FEEDBACK, answer.context.session_hash, making.thumb(answer))
    (at,) = log.append([vote]).result()
    upto = {str(source): end for topic in TOPICS.values() for source, end in log.end_offsets(topic.name).items()}
    place = letters.Place(at.topic, at.partition, at.offset)
    found = []
    for number, refused in enumerate(((), (place,))):
        store = database.Database(f"sqlite:///{tmp_path / str(number)}.db")
        replaying.replay(log, store, upto, making.at(-3600.0), refused=refused)
        (session,) = evidence.evidence(store, REQUEST, making.at(100.0)).sessions
        found.append(session.votes)
        store.close()
    assert found == [1, 0]
