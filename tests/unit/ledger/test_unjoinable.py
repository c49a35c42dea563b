"""Feedback whose answer does not come is unjoinable after a while: shown and counted so, and joined should it come."""

import pytest
from tests.unit.ledger import making

from trimtab.core import ledger
from trimtab.ledger import counting, tracing, unjoinable
from trimtab.ledger.store import rows

_STATUS = ledger.FeedbackStatus
# The records' own time is `making.NOW`.
LATER, SAME_MOMENT = rows.to_us(making.at(1.0)), rows.to_us(making.NOW)


def counts(store: making.Ledger, overdue_us: int, line: str = making.LINE) -> ledger.CountsResponse:
    return counting.counts(store.store, ledger.CountsRequest(making.TENANT, line), overdue_us)


def status(store: making.Ledger, overdue_us: int, feedback_id: str = "f") -> tuple[_STATUS, str]:
    chain = tracing.trace(store.store, ledger.TraceRequest(making.TENANT, feedback_id), overdue_us)
    [traced] = [one for one in chain.feedback if one.event.id == feedback_id]
    return traced.status, traced.reason


def test_what_has_waited_for_too_long_is_counted_apart_and_shown_with_what_it_waits_for(ledger: making.Ledger) -> None:
    lost, kept = making.completion("lost"), making.completion("kept")
    ledger.take(making.thumb(lost), making.thumb(kept, "g"), kept)
    for moment, expected in ((0, (1, 0)), (SAME_MOMENT, (1, 0)), (LATER, (0, 1))):
        found = counts(ledger, moment)
        assert (found.waiting, found.unjoinable) == expected
        assert (found.feedback, found.joined) == (2, 1)
    assert status(ledger, SAME_MOMENT) == (_STATUS.WAITING, "completion has not arrived")
    assert status(ledger, LATER) == (_STATUS.UNJOINABLE, "completion has not arrived")
    assert status(ledger, LATER, "g") == (_STATUS.JOINED, "")


def test_an_answer_that_comes_after_all_joins_as_if_it_had_been_there(ledger: making.Ledger) -> None:
    answer = making.completion()
    ledger.take(making.thumb(answer))
    assert counts(ledger, LATER).unjoinable == 1
    ledger.take(answer)
    found = counts(ledger, LATER)
    assert (found.waiting, found.unjoinable, found.joined, found.examples) == (0, 0, 1, 1)
    assert status(ledger, LATER) == (_STATUS.JOINED, "")


def test_an_amendment_of_what_never_came_is_unjoinable_too(ledger: making.Ledger) -> None:
    answer = making.completion()
    ledger.take(answer, making.thumb(answer, "second", supersedes=["first"]))
    assert status(ledger, LATER, "second") == (_STATUS.UNJOINABLE, "superseded feedback has not arrived")
    assert counts(ledger, LATER).unjoinable == 1


def test_of_no_known_line_it_is_counted_with_each_line_of_its_tenant(ledger: making.Ledger) -> None:
    ledger.take(making.thumb(making.completion(), bare=True))
    assert [counts(ledger, LATER, line).unjoinable for line in (making.LINE, "other", "")] == [1, 1, 1]


def test_nothing_is_said_to_be_lost_before_the_whole_log_was_read() -> None:
    patience = unjoinable.Patience(60.0, lambda: making.at(60.0))
    assert patience.overdue_us() == 0
    patience.knows(True)
    assert patience.overdue_us() == SAME_MOMENT
    patience.knows(False)
    assert patience.overdue_us() == 0


@pytest.mark.parametrize("after_s", [30.0, 90.0])
def test_the_time_is_that_since_the_log_took_it(after_s: float, ledger: making.Ledger) -> None:
    patience = unjoinable.Patience(after_s, lambda: making.at(60.0))
    patience.knows(True)
    ledger.take(making.thumb(making.completion()))
    assert counts(ledger, patience.overdue_us()).unjoinable == (after_s < 60.0)
