"""Dead letters are replayed or dropped once, and the log itself remembers by whom and why."""

import concurrent.futures
import contextlib
import dataclasses
import datetime

import pytest

from trimtab.bus import deadletter, letters, port, publish, settling, topics
from trimtab.core import audit, errors, text
from trimtab.wire import schemas

AT = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
CONTEXT = text.Context("acme", "")
ACT = settling.Act("acme", "ada", "the reader is repaired")


@pytest.fixture
def known(log):
    with contextlib.closing(letters.Letters(log)) as opened:
        yield opened


def refuse(log, value=b"bad", topic="feedback", key=b"k", *, consumer="ledger", headers=None):
    """A record that is on its topic, and its letter. Its place."""
    new = port.NewRecord(topic, key, value, headers or {"trimtab-schema": b"feedback/9"})
    ((position,),) = [log.append([new]).result()]
    bury(log, position, new, consumer)
    return letters.Place(position.topic, position.partition, position.offset)


def bury(log, position, new, consumer="ledger"):
    place = (position.topic, position.partition, position.offset)
    record = port.Record(*place, AT, new.key, new.value, dict(new.headers))
    deadletter.DeadLetters(log, consumer, deadletter.Limit(), lambda: AT).bury(record, "It is bad.")


def desk(log, known):
    known.refresh()
    return settling.Desk(log, known, ACT, lambda: AT)


def records(log, topic):
    places = dict.fromkeys(log.end_offsets(topic), 0)
    with contextlib.closing(log.reader(places)) as reader:
        return reader.poll(1000, 0.0)


def acts(log):
    found = [schemas.decode(one.value, one.headers, audit.AuditRecord) for one in records(log, "audit")]
    return [(one.context.tenant, one.actor, one.act, one.target, one.reason) for one in found]


def test_a_letter_written_twice_is_one_entry_and_two_consumers_are_two(log, known):
    new = port.NewRecord("feedback", b"k", b"bad")
    (position,) = log.append([new]).result()
    for consumer in ("ledger", "ledger", "console"):
        bury(log, position, new, consumer)
    known.refresh()
    assert [(entry.consumer, entry.times) for entry in known.entries.values()] == [("ledger", 2), ("console", 1)]


def test_a_place_reads_as_it_is_written_and_nothing_else_does():
    place = letters.Place("feedback", 3, 77)
    assert letters.parse_place(str(place)) == place
    for wrong in ("", "feedback", "feedback/3", "feedback/@5", "wishes/3@5", "feedback/3@five", "feedback/-1@5", "@5"):
        with pytest.raises(errors.InvalidField, match="is no place in the log"):
            letters.parse_place(wrong)


def test_a_replayed_record_is_the_same_in_the_same_partition_and_says_where_it_comes_from(log, known):
    place = refuse(log, key=b"some session")
    assert desk(log, known).replay([place]) == [settling.Outcome(place, True, "replayed")]
    first, second = records(log, "feedback")
    assert (second.key, second.value, second.partition) == (first.key, first.value, first.partition)
    assert second.headers == first.headers | {letters.REPLAYED_FROM: str(place).encode()}
    assert acts(log) == [("acme", "ada", "deadletter.replay", str(place), ACT.reason)]


def test_a_letter_is_settled_once_whoever_asks_again_and_also_by_a_desk_that_reads_it_from_the_log(log, known):
    one, other = refuse(log), refuse(log)
    desk(log, known).replay([one, one])
    desk(log, known).drop([other])
    with contextlib.closing(letters.Letters(log)) as anew:
        late = desk(log, anew)
        outcomes = [*late.replay([one, other]), *late.drop([one])]
    assert [(each.done, each.open) for each in outcomes] == [(False, False)] * 3
    assert [each.words.split(" at ")[0] for each in outcomes] == ["was replayed", "was dropped", "was replayed"]
    assert (len(records(log, "feedback")), len(acts(log))) == (3, 2)


def test_what_is_refused_again_after_a_replay_is_a_new_letter_that_can_be_replayed(log, known):
    place = refuse(log)
    desk(log, known).replay([place])
    again = records(log, "feedback")[-1]
    deadletter.DeadLetters(log, "ledger", deadletter.Limit(consecutive=0)).bury(again, "It is bad.")
    known.refresh()
    still = [entry for entry in known.entries.values() if entry.place not in known.settled]
    assert [(entry.place, entry.replayed_from) for entry in still] == [(letters.place_of(again), (str(place),))]
    desk(log, known).replay([still[0].place])
    third = records(log, "feedback")[-1]
    assert letters.replayed_from(third.headers) == (str(place), str(still[0].place))
    assert letters.first_offset(third) == place.offset


@pytest.mark.parametrize("origin", [b"", b"feedback/7@1", b"completions/3@1", b"feedback/3@99", b"\xff"])
def test_an_origin_that_cannot_be_is_not_believed(origin):
    headers = {letters.REPLAYED_FROM: origin} if origin else {}
    assert letters.first_offset(port.Record("feedback", 3, 12, AT, b"k", b"v", headers)) == 12


def test_a_dropped_letter_stands_on_the_audit_trail_and_keeps_its_bytes(log, known):
    place = refuse(log)
    desk(log, known).drop([place])
    assert known.settled[place].outcome is audit.Settlement.DROPPED
    assert len(records(log, "feedback")) == 1
    (entry,) = known.entries.values()
    assert known.fetch(entry).value == b"bad"
    assert acts(log) == [("acme", "ada", "deadletter.drop", str(place), ACT.reason)]


def test_a_letter_that_has_not_all_of_its_record_stays_open(log, known, monkeypatch):
    huge = bytes(topics.FEEDBACK.max_bytes + 1)
    monkeypatch.setitem(topics.ALL, "feedback", dataclasses.replace(topics.FEEDBACK, max_bytes=len(huge)))
    new = port.NewRecord("feedback", b"k", huge)
    (position,) = log.append([new]).result()
    monkeypatch.undo()
    bury(log, position, new)
    place = letters.Place(position.topic, position.partition, position.offset)
    (outcome,) = desk(log, known).replay([place])
    assert (outcome.done, outcome.open) == (False, True)
    assert f"at {len(huge)} bytes only its beginning was kept" in outcome.words
    assert [one.done for one in desk(log, known).drop([place])] == [True]


def test_a_record_that_became_too_large_by_its_header_stays_open_and_says_so(log, known):
    place = refuse(log, headers={"h": bytes(port.MAX_KEY_AND_HEADERS_BYTES - 10)})
    (outcome,) = desk(log, known).replay([place])
    assert (outcome.done, outcome.open) == (False, True)
    assert "`headers` and key are over" in outcome.words
    assert acts(log) == []


def test_an_older_record_of_a_compacted_topic_is_not_put_behind_the_newer_of_its_key(log, known):
    older = refuse(log, b"1", "rollouts", b"release")
    other = refuse(log, b"1", "rollouts", b"another release")
    publish.publish(log, topics.AUDIT, b"", audit.AuditRecord("a", CONTEXT, AT, "", "", "", "")).result()
    log.append([port.NewRecord("rollouts", b"release", b"2")]).result()
    refused, replayed = desk(log, known).replay([older, other])
    assert (refused.done, refused.open) == (False, True)
    assert "a newer one of its key stands at rollouts/0@2" in refused.words
    assert replayed.done
    log.clean()
    with contextlib.closing(letters.Letters(log)) as anew:
        (gone,) = desk(log, anew).replay([older])
    assert (gone.done, "compaction has removed the original" in gone.words) == (False, True)


def test_a_letter_that_is_not_there_is_named(log, known):
    with pytest.raises(errors.NotFound, match="feedback/3@5"):
        desk(log, known).replay([letters.Place("feedback", 3, 5)])


class BreaksInTheMiddle:
    """As Kafka may: the first record of an append is stored, and then the cluster is away."""

    def __init__(self, log):
        self._log = log

    def append(self, new):
        self._log.append(new[:1]).result()
        failed = concurrent.futures.Future()
        failed.set_exception(errors.LogUnavailable("away"))
        return failed

    def __getattr__(self, name):
        return getattr(self._log, name)


def test_a_replay_that_broke_before_its_mark_is_open_and_is_done_again_with_one_act_in_the_end(log, known):
    place = refuse(log)
    broken = BreaksInTheMiddle(log)
    with pytest.raises(errors.LogUnavailable):
        desk(broken, known).replay([place])
    assert [one.done for one in desk(log, known).replay([place])] == [True]
    _, *copies = records(log, "feedback")
    assert [letters.first_offset(copy) for copy in copies] == [place.offset] * 2
    assert len(acts(log)) == 1


def test_only_a_halted_consumer_is_let_go_on(log, known):
    with pytest.raises(errors.WrongState, match="'ledger' is not halted; halted: none"):
        desk(log, known).resume("ledger", 0)
    publish.publish(log, topics.DEADLETTER, b"", audit.ConsumerHalted("ledger", "feedback", 3, 9, "why", AT)).result()
    desk(log, known).resume("ledger", 30)
    known.refresh()
    assert (known.halted, known.allowed) == ({}, {"ledger": 30})
    assert acts(log) == [("acme", "ada", "deadletter.resume", "ledger", ACT.reason)]


def test_what_a_newer_version_wrote_on_the_topic_is_counted_and_stops_nobody(log, known):
    place = refuse(log)
    log.append([port.NewRecord("deadletter", b"k", b"v", {"trimtab-schema": b"deadletter/2"})]).result()
    log.append([port.NewRecord("deadletter", b"k", b"v", {"trimtab-schema": b"wishes/1"})]).result()
    known.refresh()
    assert (len(known.entries), known.unreadable) == (1, 2)
    deadletter.DeadLetters(log, "ledger", deadletter.Limit()).recall()
    assert desk(log, known).replay([place])[0].done
