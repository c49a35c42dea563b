"""A feedback service or policy killed around an append loses nothing it acknowledged; sending again doubles nothing."""

import asyncio
import contextlib
import pathlib

import pytest
from tests.faults import killing
from tests.unit.ledger import making

from trimtab.bus import port, topics
from trimtab.bus.sqlite import SqliteLog
from trimtab.core import audit, clock, completions, feedback, text
from trimtab.feedback import imports, intake
from trimtab.policy import recorder
from trimtab.rpc import secrets
from trimtab.wire import schemas

WALKED = [*killing.under("feedback.", "policy.", "secrets.")]
SENT = 5


def said(folder: pathlib.Path) -> set[str]:
    path = folder / "acknowledged"
    return set(path.read_text().splitlines()) if path.exists() else set()


def acknowledge(folder: pathlib.Path, what: str) -> None:
    with (folder / "acknowledged").open("a") as lines:
        lines.write(f"{what}\n")


def written(folder: pathlib.Path, topic: topics.Topic, kind: type) -> list:
    log = SqliteLog(folder / "log.db")
    with contextlib.closing(log.reader(dict.fromkeys(log.end_offsets(topic.name), 0))) as reader:
        found: list[port.Record] = []
        while records := reader.poll(1000, 0.0):
            found += records
    log.close()
    return [schemas.decode(record.value, record.headers, kind) for record in found]


def send(folder: pathlib.Path) -> None:
    """A client that sends five votes one after the other, with ids of its own."""

    async def all_of_them() -> None:
        log = SqliteLog(folder / "log.db")
        takes = intake.Intake(log, making.RING, b"h" * 32, config_digest="")
        for number in range(SENT):
            target = text.ResponseRef(making.completion("s", number).id, 0)
            event = feedback.FeedbackEvent(f"vote-{number}", clock.utc_now(), feedback.Thumb(target, up=True))
            answer = await takes.send(feedback.SendRequest(making.TENANT, event))
            acknowledge(folder, answer.feedback_id)
        log.close()

    asyncio.run(all_of_them())


@pytest.mark.parametrize("point", [f"{point}:3" for point in killing.under("feedback.intake.")])
def test_an_acknowledged_vote_is_in_the_log_and_one_sent_again_is_a_copy(point: str, tmp_path: pathlib.Path) -> None:
    killing.kill(point, send, tmp_path)
    stored = written(tmp_path, topics.FEEDBACK, feedback.FeedbackEvent)
    assert {event.id for event in stored} >= said(tmp_path) == {"vote-0", "vote-1"}
    killing.run(send, tmp_path)
    stored = written(tmp_path, topics.FEEDBACK, feedback.FeedbackEvent)
    # the restarted replica has forgotten what it acknowledged; the ledger counts by identity and body
    assert {event.id for event in stored} == said(tmp_path) == {f"vote-{number}" for number in range(SENT)}
    assert len({(feedback.identity(event), feedback.body_digest(event)) for event in stored}) == SENT


def bring(folder: pathlib.Path) -> None:
    """An import of two batches."""

    async def all_of_it() -> None:
        log = SqliteLog(folder / "log.db")
        importer = imports.Importer(log, making.RING, b"h" * 32, config_digest="")
        for batch in (range(3), range(3, 6)):
            asked = (text.Message(text.Role.USER, text.Text("which?")),)
            items = tuple(
                feedback.ImportedPreference(asked, text.Text(f"good {n}"), text.Text(f"bad {n}"), str(n)) for n in batch
            )
            await importer.run(
                feedback.ImportPreferencesRequest(making.TENANT, making.LINE, "file", items, "ann", "ours", "request-1")
            )
        importer.close()
        log.close()

    asyncio.run(all_of_it())


@pytest.mark.parametrize("point", [f"{point}:{nth}" for point in killing.under("feedback.import.") for nth in (1, 2)])
def test_an_import_that_was_interrupted_is_the_same_when_it_is_made_again(point: str, tmp_path: pathlib.Path) -> None:
    killing.kill(point, bring, tmp_path)
    something_done = bool(written(tmp_path, topics.FEEDBACK, feedback.FeedbackEvent))
    assert len(written(tmp_path, topics.AUDIT, audit.AuditRecord)) == something_done
    killing.run(bring, tmp_path)
    [act] = written(tmp_path, topics.AUDIT, audit.AuditRecord)
    assert (act.id, act.act, act.actor, act.reason) == ("request-1", "feedback.import", "ann", "ours")
    events = written(tmp_path, topics.FEEDBACK, feedback.FeedbackEvent)
    answers = written(tmp_path, topics.COMPLETIONS, completions.Completion)
    assert len({(feedback.identity(event), feedback.body_digest(event)) for event in events}) == 6
    assert {ref.completion_id for event in events for ref in feedback.targets(event.kind)} == {
        one.id for one in answers
    }
    assert len({(one.id, one.responses) for one in answers}) == 6


def answer(folder: pathlib.Path) -> None:
    """A policy that answers five times: each answer is given once it is recorded."""

    async def all_of_them() -> None:
        log = SqliteLog(folder / "log.db")
        records = recorder.Recorder(log, wait_s=30.0, spool=10)
        for number in range(SENT):
            completion = making.completion("s", number)
            await records.record(completion)
            acknowledge(folder, completion.id)
        log.close()

    asyncio.run(all_of_them())


@pytest.mark.parametrize("point", [f"{point}:3" for point in killing.under("policy.recorder.")])
def test_an_answer_that_was_given_is_in_the_log(point: str, tmp_path: pathlib.Path) -> None:
    killing.kill(point, answer, tmp_path)
    stored = [one.id for one in written(tmp_path, topics.COMPLETIONS, completions.Completion)]
    assert len(said(tmp_path)) == 2
    assert said(tmp_path) <= set(stored)
    assert len(stored) == len(set(stored)) == 2 + ("appended" in point)


def create(folder: pathlib.Path) -> None:
    secrets.create(folder / "secrets.toml", "acme")


def test_secrets_are_whole_or_not_there(tmp_path: pathlib.Path) -> None:
    killing.kill("secrets.create.before_name", create, tmp_path)
    assert not (tmp_path / "secrets.toml").exists()
    killing.run(create, tmp_path)
    assert secrets.load(tmp_path / "secrets.toml").internal_token
    with pytest.raises(FileExistsError):
        create(tmp_path)
