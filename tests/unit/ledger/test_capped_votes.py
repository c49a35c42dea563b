"""Of few people's votes so many sessions count, the first by exposure, whatever the order in which they arrive."""

import dataclasses
import pathlib
import random

import pytest
from tests.postgres.stores import Stores
from tests.unit.ledger import making
from tests.unit.ledger import test_rebuild_from_the_log as rebuilding
from tests.unit.ledger.test_any_arrival_order import arrivals

from trimtab.bus.sqlite import log as sqlite_log
from trimtab.core import completions, feedback
from trimtab.core import ledger as core_ledger
from trimtab.ledger import evidence
from trimtab.ledger.store import tables

REQUEST = core_ledger.EvidenceRequest(making.TENANT, "rel", 50.0, 2.0, 4.0)


def ask(store: making.Ledger, request: core_ledger.EvidenceRequest = REQUEST) -> core_ledger.EvidenceResponse:
    return evidence.evidence(store.store, request, making.at(100.0))


def visit(number: int, **rater: str) -> tuple[completions.Completion, feedback.FeedbackEvent]:
    """A session, exposed the later the greater its number, and its thumb up."""
    arm = completions.Arm.CANDIDATE if number % 2 else completions.Arm.STABLE
    answer = making.completion(f"s{number}", exposure=making.exposed(arm=arm), created=float(number))
    return answer, making.thumb(answer, "f", occurred=number + 1.0, **rater)


def shown(found: core_ledger.EvidenceResponse) -> list[tuple[int, int, float | None]]:
    return [(one.votes, one.capped, one.outcome) for one in found.sessions]


def test_the_first_sessions_by_exposure_count_and_not_the_first_to_arrive(ledger: making.Ledger) -> None:
    for number in (3, 2, 1, 0):
        ledger.take(*visit(number, rater="ann"))
    assert shown(ask(ledger)) == [(1, 0, 1.0)] * 2 + [(0, 1, None)] * 2
    assert shown(ask(ledger, dataclasses.replace(REQUEST, rater_sessions=0.0))) == [(1, 0, 1.0)] * 4


def test_a_network_is_counted_whoever_votes_from_it(ledger: making.Ledger) -> None:
    for number in range(6):
        ledger.take(*visit(number, rater=f"r{number}", network="net"))
    assert shown(ask(ledger)) == [(1, 0, 1.0)] * 4 + [(0, 1, None)] * 2


def test_others_in_a_session_still_count_and_the_session_itself_has_no_limit(ledger: making.Ledger) -> None:
    for number in range(3):
        answer, vote = visit(number, rater="ann")
        ledger.take(answer, vote, making.thumb(answer, "own", up=False))
    assert shown(ask(ledger)) == [(2, 0, 0.5)] * 2 + [(1, 1, 0.0)]


def test_what_is_taken_back_or_comes_too_late_uses_up_nothing(ledger: making.Ledger) -> None:
    taken_back, late, *others = (visit(number, rater="ann") for number in range(5))
    ledger.take(*taken_back, late[0], making.thumb(late[0], "late", occurred=99.0, rater="ann"))
    back = feedback.Retraction("", taken_back[0].id)
    ledger.take(making.event(back, "back", about=taken_back[0], supersedes=["f"], rater="ann"))
    for answer, vote in others:
        ledger.take(answer, vote)
    assert shown(ask(ledger)) == [(0, 0, None)] * 2 + [(1, 0, 1.0)] * 2 + [(0, 1, None)]


def test_a_session_of_the_safety_stage_is_one_of_the_release(ledger: making.Ledger) -> None:
    early = making.completion("early", exposure=making.exposed(stage="safety"), created=-1.0)
    ledger.take(early, making.thumb(early, rater="ann"))
    for number in range(2):
        ledger.take(*visit(number, rater="ann"))
    assert [(one.stage, one.votes) for one in ask(ledger).sessions] == [("safety", 1), ("evidence", 1), ("evidence", 0)]


@pytest.mark.parametrize("seed", range(8))
def test_any_arrival_order_gives_the_same_outcomes(stores: Stores, seed: int) -> None:
    chance = random.Random(seed)
    sources = making.Sources()
    records = []
    for number in range(30):
        who = {"rater": chance.choice(["", "a", "b", "c"]), "network": chance.choice(["", "x", "y"])}
        answer, vote = visit(number, **who)
        again = making.thumb(answer, "again", up=False, occurred=number + 2.0, rater=chance.choice(["a", "b"]))
        records += [sources.record(value) for value in (answer, vote, again, vote)]
    found = []
    for name in ("one", "other"):
        with making.ledger(stores.url(name)) as store:
            for batch in arrivals(records, chance, cut=0.3):
                store.feed(batch)
            found.append(ask(store))
    assert found[0] == found[1]
    assert sum(one.capped for one in found[0].sessions) > 5


def test_an_example_says_nothing_of_a_network(ledger: making.Ledger) -> None:
    ledger.take(*visit(0, rater="ann", network="net"))
    [example] = ledger.emitted()
    assert example.rater == feedback.Rater(id="ann")


def test_the_same_event_from_another_network_is_a_copy() -> None:
    answer, vote = visit(0, rater="ann")
    moved = dataclasses.replace(vote, rater=dataclasses.replace(vote.rater, network="net"))
    assert feedback.body_digest(vote) == feedback.body_digest(moved)
    assert answer.id in repr(moved)
    assert "net" not in repr(moved)


def test_a_rebuilt_ledger_and_one_of_an_older_version_cap_the_same_votes(
    stores: Stores, tmp_path: pathlib.Path
) -> None:
    log = sqlite_log.SqliteLog(tmp_path / "log.db")
    for number in range(8):
        rebuilding.write(log, *visit(number, rater="ann" if number % 2 else "bob", network="net" * (number > 4)))
    rebuilding.catch_up(log, stores.url("ledger"))
    stores.copy("ledger", "older")
    stores.as_an_older_version("older")
    published = rebuilding.published(log)
    found = []
    for name in ("ledger", "rebuilt", "older"):
        rebuilding.catch_up(log, stores.url(name))
        with making.ledger(stores.url(name)) as store:
            found.append(ask(store))
    assert found[0] == found[1] == found[2]
    assert sum(one.capped for one in found[0].sessions) == 4
    assert rebuilding.published(log) == published
    log.close()


def test_a_database_of_another_version_keeps_its_leases(stores: Stores) -> None:
    with making.ledger(stores.url()) as store:
        store.take(*visit(0, rater="ann"))
        with store.store.write() as connection:
            lease = {"name": "n", "holder": "h", "expires_us": 1, "generation": 7}
            connection.execute(tables.LEASES.insert().values(lease))
    with making.ledger(stores.url()) as same:
        assert len(ask(same).sessions) == 1
    stores.as_an_older_version("ledger")
    with making.ledger(stores.url()) as newer:
        assert (ask(newer).sessions, newer.consumer.positions()) == ((), {})
        with newer.store.read() as connection:
            assert connection.scalar(tables.LEASES.select().with_only_columns(tables.LEASES.c.generation)) == 7
