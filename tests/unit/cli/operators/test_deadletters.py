"""`trimtab deadletter` as its operator sees it: what is listed, what is shown and left out, and what acts say."""

import contextlib
import dataclasses
import datetime
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.ledger import making
from tests.wire import records as written

from trimtab.bus import deadletter, letters, port, publish, topics
from trimtab.bus.sqlite import SqliteLog
from trimtab.cli.commands import root
from trimtab.core import audit, text
from trimtab.wire import schemas

AT = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
SECRET = "nobody may read this"
ANSWER = making.completion(prompt=SECRET, texts=(SECRET,))


@pytest.fixture
def log(tmp_path: pathlib.Path) -> Iterator[SqliteLog]:
    (tmp_path / "lines.toml").write_text(f'[lines.{making.LINE}]\ntenant = "{making.TENANT}"\n')
    with contextlib.closing(SqliteLog(tmp_path / "log.sqlite", deadline_s=30.0)) as opened:
        yield opened


def refuse(log: port.EventLog, value: Any, *, reason: str = "It is bad.", consumer: str = "ledger") -> letters.Place:
    """A record that was refused; bytes stand for what cannot be read."""
    new = (
        port.NewRecord("feedback", b"k", value, {"trimtab-schema": b"feedback/1"}) if isinstance(value, bytes) else None
    )
    topic = topics.COMPLETIONS if value is not None and hasattr(value, "responses") else topics.FEEDBACK
    new = new or publish.new_record(topic, b"k", value)
    (at,) = log.append([new]).result()
    record = port.Record(at.topic, at.partition, at.offset, AT, new.key, new.value, dict(new.headers))
    deadletter.DeadLetters(log, consumer, deadletter.Limit(), lambda: AT).bury(record, reason)
    return letters.place_of(record)


def typed(capsys: pytest.CaptureFixture[str], folder: pathlib.Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    """What `trimtab deadletter` prints: on standard output and on standard error, without line breaks."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        root.run(["deadletter", *arguments, "--state", str(folder)])
    said = capsys.readouterr()
    assert int(ended.value.code or 0) == code, said
    return " ".join(said.out.split()), " ".join(said.err.split())


def shown(capsys: pytest.CaptureFixture[str], folder: pathlib.Path, place: letters.Place) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(typed(capsys, folder, "show", str(place), "--json")[0])
    return found


def test_a_list_names_source_consumer_reason_and_times_and_is_filtered(
    log: SqliteLog, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vote, answer = refuse(log, making.thumb(ANSWER), reason="No session."), refuse(log, ANSWER, consumer="console")
    refuse(log, b"\xff", reason="Wire format was corrupt")
    told, _ = typed(capsys, tmp_path, "list")
    for word in (str(vote), str(answer), "ledger", "console", "No session.", "2026-11-21 00:00:00"):
        assert word in told

    def listed(*filters: str) -> list[str]:
        found = json.loads(typed(capsys, tmp_path, "list", "--json", *filters)[0])
        return [one["reason"] for one in found]

    assert listed() == ["It is bad.", "No session.", "Wire format was corrupt"]
    assert listed("--topic", "completions") == ["It is bad."]
    assert listed("--consumer", "console") == ["It is bad."]
    assert listed("--matching", "no SESSION") == ["No session."]
    assert listed("--consumer", "ledger", "--topic", "completions") == listed("--settled") == []


def test_nothing_to_list_is_said(log: SqliteLog, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(capsys, tmp_path, "list") == ("No dead letter is open.", "")
    assert typed(capsys, tmp_path, "list", "--settled")[0] == "No letter was settled."
    assert typed(capsys, tmp_path, "replay", "--all", "--reason", "why")[0] == "No dead letter is open."


def test_another_log_is_listed_without_a_folder_and_acted_on_with_one(
    log: SqliteLog, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = refuse(log, making.thumb(ANSWER))
    url = f"sqlite:///{tmp_path}/log.sqlite"
    elsewhere = tmp_path / "elsewhere"
    assert str(place) in typed(capsys, elsewhere, "list", "--log", url)[0]
    _, err = typed(capsys, elsewhere, "drop", str(place), "--log", url, "--reason", "why", code=1)
    assert "There is no platform in" in err
    assert not elsewhere.exists()
    assert typed(capsys, tmp_path, "drop", str(place), "--log", url, "--reason", "why")[0].endswith("dropped")


def test_an_act_needs_letters_or_all_and_not_both(
    log: SqliteLog, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in ((), ("feedback/3@5", "--all"), ("feedback/3@5", "--topic", "feedback"), ("feedback/3",)):
        out, err = typed(capsys, tmp_path, "replay", *wrong, "--reason", "why", code=1)
        assert (out, err.count("trimtab: ")) == ("", 1)
    assert (
        "There is no dead letter 'feedback/3@5'"
        in typed(capsys, tmp_path, "replay", "feedback/3@5", "--reason", "why", code=1)[1]
    )


def test_acts_say_what_they_did_and_what_was_done_before(
    log: SqliteLog, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = refuse(log, making.thumb(ANSWER), reason="first"), refuse(log, ANSWER, reason="second")
    assert f"{one} replayed" in typed(capsys, tmp_path, "replay", "--all", "--matching", "first", "--reason", "a")[0]
    assert "was replayed at" in typed(capsys, tmp_path, "drop", str(one), "--reason", "b")[0]
    assert json.loads(typed(capsys, tmp_path, "drop", str(other), "--reason", "c", "--json")[0]) == [
        {"source": str(other), "done": True, "words": "dropped"}
    ]
    settled, _ = typed(capsys, tmp_path, "list", "--settled")
    assert settled.count(": a") == settled.count(": c") == 1
    assert "settled" in typed(capsys, tmp_path, "show", str(one))[0]


def test_a_letter_is_shown_whole_where_it_can_be_read(
    log: SqliteLog, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = refuse(log, ANSWER)
    found = shown(capsys, tmp_path, place)
    assert (found["source"], found["headers"]["trimtab-schema"], found["key"]) == (str(place), "completion/1", "6b")
    assert found["record"]["prompt"][0]["content"] == SECRET
    assert [one["consumer"] for one in found["refused"]] == ["ledger"]
    assert SECRET in typed(capsys, tmp_path, "show", str(place))[0]


def test_bytes_that_cannot_be_read_are_shown_as_such_with_the_reason(
    log: SqliteLog, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = refuse(log, bytes(range(256)) + b"far behind")
    told, _ = typed(capsys, tmp_path, "show", str(place))
    assert "cannot be read as feedback version 1" in told
    assert "00000040 40 41 42 43 44 45 46 47 48 49 4a 4b 4c 4d 4e 4f @ABCDEFGHIJKLMNO" in told
    assert "far behind" not in told
    assert shown(capsys, tmp_path, place)["record"] is None


def test_a_newer_version_is_shown_as_far_as_it_is_understood(
    log: SqliteLog, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = publish.new_record(topics.FEEDBACK, b"k", making.thumb(ANSWER, "vote"))
    newer = dataclasses.replace(new, value=new.value + b"\xf8\x3f\x01", headers={schemas.SCHEMA_HEADER: b"feedback/7"})
    (at,) = log.append([newer]).result()
    record = port.Record(at.topic, at.partition, at.offset, AT, b"k", newer.value, dict(newer.headers))
    deadletter.DeadLetters(log, "ledger", deadletter.Limit()).bury(record, "too new")
    found = shown(capsys, tmp_path, letters.place_of(record))
    assert found["record"]["id"] == "vote"
    assert found["note"] == (
        "It has feedback version '7'; this version reads up to 1. Shown is what this version understands."
    )


def without_consent() -> Any:
    return dataclasses.replace(ANSWER, context=dataclasses.replace(ANSWER.context, store=False))


def of_somebody() -> Any:
    return dataclasses.replace(ANSWER, context=dataclasses.replace(ANSWER.context, subject_hash=b"s" * 16))


def test_words_that_may_not_be_kept_or_are_to_be_forgotten_are_left_out(
    log: SqliteLog, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, place = refuse(log, of_somebody()), refuse(log, without_consent())
    assert SECRET in json.dumps(shown(capsys, tmp_path, kept))
    forget = audit.Erasure("er", text.Context(making.TENANT, "", subject_hash=b"s" * 16), AT, "operator")
    publish.publish(log, topics.ERASURES, b"s" * 16, forget).result()
    for each, why in ((kept, "is to be forgotten"), (place, "no consent")):
        found = shown(capsys, tmp_path, each)
        told, _ = typed(capsys, tmp_path, "show", str(each))
        assert why in found["note"] and why in told
        assert SECRET not in json.dumps(found) + told
        response = found["record"]["responses"][0]
        assert {response["text"], response["token_ids"]} == {"(left out)"}
        assert found["record"]["policy_id"] == "policy"


def test_sealed_words_are_said_to_be_sealed(
    log: SqliteLog, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = refuse(log, written.RECORDS["completions"])
    responses = shown(capsys, tmp_path, place)["record"]["responses"]
    assert [response["text"] for response in responses] == ["Zwölf.", "(sealed)"]


def test_a_halted_consumer_is_named_and_only_it_can_be_resumed(
    log: SqliteLog, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is not halted" in typed(capsys, tmp_path, "resume", "ledger", "--reason", "why", code=1)[1]
    halted = audit.ConsumerHalted("ledger", "feedback", 3, 9, "20 in a row.", AT)
    publish.publish(log, topics.DEADLETTER, b"ledger", halted).result()
    told, _ = typed(capsys, tmp_path, "list")
    assert "halted since 2026-11-21 00:00:00: 20 in a row. Correct the consumer and start it again" in told
    assert typed(capsys, tmp_path, "resume", "ledger", "--letters", "7", "--reason", "why")[0] == (
        "ledger goes on, with 7 letters beside its limit"
    )
    assert "halted" not in typed(capsys, tmp_path, "list")[0]
