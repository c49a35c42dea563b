"""The checker finds what is wrong with a history, and nothing where nothing is."""

import dataclasses
import math
import pathlib
from typing import Any

import pytest
from tests.faults.harness import checker, history

OK, REFUSED, UNKNOWN = history.Outcome.OK, history.Outcome.REFUSED, history.Outcome.UNKNOWN
DEADLINE_S = 5.0


def attempt(name: str, digest: str = "up", **other: Any) -> history.Attempt:
    return history.Attempt(name, digest, **({"replica": 0, "began": 1.0, "ended": 1.5, "outcome": OK} | other))


def stored(name: str, digest: str = "up", offset: int = 0) -> checker.Stored:
    return checker.Stored(name, digest, partition=3, offset=offset)


def counted(name: str, digest: str = "up", example: str = "") -> checker.Counted:
    return checker.Counted(name, digest, example or f"example of {name}")


def check(
    attempts: list[history.Attempt],
    in_log: list[checker.Stored],
    counts: list[checker.Counted],
    *,
    faults: tuple[history.Fault, ...] = (),
    amends: dict[str, str] | None = None,
    **other: Any,
) -> checker.Verdict:
    told = history.Told(attempts, faults, amends or {})
    return checker.check(told, checker.Found(in_log, counts, **other), deadline_s=DEADLINE_S)


def test_a_run_in_which_everything_went_well_has_no_findings() -> None:
    attempts = [
        attempt("a"),
        attempt("a", ended=1.2, duplicate=True),
        attempt("b", outcome=UNKNOWN, ended=3.0),
        attempt("b", began=3.0, ended=4.0),
        attempt("c", "down", outcome=REFUSED),
        attempt("c"),
        attempt("never taken", outcome=UNKNOWN),
    ]
    in_log = [stored("a"), stored("b"), stored("b", offset=1), stored("c", offset=2)]
    found = check(attempts, in_log, [counted("a"), counted("b"), counted("c")])
    assert found.findings == {}
    assert (found.sent, found.acknowledged, found.attempts, found.failures, found.copies) == (4, 3, 7, 3, 1)


def test_what_was_acknowledged_and_is_not_in_the_log_is_lost() -> None:
    assert check([attempt("a"), attempt("b")], [stored("a")], [counted("a"), counted("b")]).lost == ("b",)


def test_a_body_that_was_acknowledged_and_is_not_in_the_log_is_lost_though_another_body_is() -> None:
    attempts = [attempt("a"), attempt("a", "down")]
    assert check(attempts, [stored("a")], [counted("a")]).lost == ("a",)


def test_what_was_acknowledged_and_does_not_count_is_lost() -> None:
    assert check([attempt("a")], [stored("a")], []).lost == ("a",)


def test_an_acknowledgement_of_a_replica_that_had_it_already_is_one_too() -> None:
    assert check([attempt("a", duplicate=True)], [], []).lost == ("a",)


def test_what_nobody_acknowledged_may_be_there_or_not() -> None:
    attempts = [attempt("a", outcome=UNKNOWN), attempt("b", outcome=UNKNOWN)]
    assert check(attempts, [stored("a")], [counted("a")]).findings == {}


def test_two_examples_of_one_id_are_a_duplicate() -> None:
    counts = [counted("a", example="one"), counted("a", example="other")]
    found = check([attempt("a")], [stored("a"), stored("a", offset=1)], counts)
    assert (found.duplicated, found.conflicts_counted) == (("a",), ())


def test_what_was_amended_counts_by_its_amendment_alone() -> None:
    attempts, in_log = [attempt("a"), attempt("b", "down")], [stored("a"), stored("b", "down", 1)]
    assert check(attempts, in_log, [counted("b", "down")], amends={"b": "a"}).findings == {}
    both = check(attempts, in_log, [counted("a"), counted("b", "down")], amends={"b": "a"})
    assert both.duplicated == ("a",)
    neither = check(attempts, in_log, [], amends={"b": "a"})
    assert neither.lost == ("b",)


def test_an_amendment_that_is_not_in_the_log_amends_nothing() -> None:
    attempts = [attempt("a"), attempt("b", "down", outcome=UNKNOWN)]
    assert check(attempts, [stored("a")], [counted("a")], amends={"b": "a"}).findings == {}


@pytest.mark.parametrize("where", ["log", "ledger"])
def test_what_nobody_sent_is_invented(where: str) -> None:
    in_log, counts = [stored("a")], [counted("a")]
    (in_log if where == "log" else counts).append(stored("b") if where == "log" else counted("b"))  # type: ignore[arg-type]
    assert check([attempt("a")], in_log, counts).invented == ("b",)


def test_a_body_that_nobody_sent_is_invented() -> None:
    assert check([attempt("a")], [stored("a", "down")], [counted("a", "down")]).invented == ("a",)


def test_the_first_body_in_partition_order_is_the_one_that_counts() -> None:
    attempts = [attempt("a"), attempt("a", "down")]
    in_log = [stored("a", "down", offset=7), stored("a", offset=4)]
    assert check(attempts, in_log, [counted("a")]).findings == {}
    assert check(attempts, in_log, [counted("a", "down")]).wrong_body == ("a",)


def test_a_conflict_that_counts_beside_the_first_body_is_found() -> None:
    attempts, in_log = [attempt("a"), attempt("a", "down")], [stored("a"), stored("a", "down", 1)]
    counts = [counted("a", example="one"), counted("a", "down", "other")]
    found = check(attempts, in_log, counts)
    assert (found.conflicts_counted, found.wrong_body, found.duplicated, found.conflicts) == (("a",), ("a",), (), 1)


def test_a_stored_conflict_must_be_listed_where_somebody_looked() -> None:
    attempts, in_log = [attempt("a"), attempt("a", "down")], [stored("a"), stored("a", "down", 1)]
    assert check(attempts, in_log, [counted("a")]).unlisted == ()
    assert check(attempts, in_log, [counted("a")], listed=set()).unlisted == ("a",)
    assert check(attempts, in_log, [counted("a")], listed={("a", "up")}).unlisted == ("a",)
    assert check(attempts, in_log, [counted("a")], listed={("a", "down")}).findings == {}


def test_an_error_after_the_deadline_and_no_answer_at_all_are_late() -> None:
    attempts = [
        attempt("in time", outcome=UNKNOWN, began=1.0, ended=5.9),
        attempt("late", outcome=UNKNOWN, began=1.0, ended=6.1),
        attempt("open", outcome=history.Outcome.OPEN, ended=None),
        attempt("slow and OK", ended=20.0),
    ]
    found = check(attempts, [stored("slow and OK")], [counted("slow and OK")])
    assert found.late == ("late", "open")


def test_an_ok_while_the_log_was_away_is_untrue_unless_it_repeats_an_older_one() -> None:
    away = history.Fault(checker.AWAY, 10.0, 20.0)
    attempts = [
        attempt("before", began=9.9, ended=10.1),
        attempt("within", began=10.1, ended=19.0),
        attempt("again", began=11.0, ended=11.1, duplicate=True),
        attempt("after", began=19.0, ended=20.1),
        attempt("failed", began=12.0, ended=13.0, outcome=UNKNOWN),
    ]
    names = [one.feedback_id for one in attempts]
    found = check(attempts, [*map(stored, names)], [*map(counted, names)], faults=(away,))
    assert found.untrue == ("within",)
    other = dataclasses.replace(away, what="disk full")
    assert check(attempts, [*map(stored, names)], [*map(counted, names)], faults=(other,)).findings == {}


def test_a_rebuild_must_count_the_same() -> None:
    attempts, in_log = [attempt("a"), attempt("b")], [stored("a"), stored("b", offset=1)]
    counts = [counted("a"), counted("b")]
    assert check(attempts, in_log, counts, rebuilt=counts[::-1]).findings == {}
    assert check(attempts, in_log, counts, rebuilt=counts[:1]).rebuilt_otherwise == ("b",)
    other = [counts[0], counted("b", example="another")]
    assert check(attempts, in_log, counts, rebuilt=other).rebuilt_otherwise == ("b",)


def test_the_99th_percentile_is_of_attempts_that_were_ok() -> None:
    attempts = [attempt(f"{number}", began=0.0, ended=number / 1000) for number in range(1, 201)]
    attempts.append(attempt("failed", outcome=UNKNOWN, began=0.0, ended=4.0))
    assert check(attempts, [], []).p99_ms == pytest.approx(198.0)
    assert math.isnan(check([], [], []).p99_ms)


def test_recovery_is_counted_from_the_end_of_the_last_fault_to_the_next_record() -> None:
    faults = [history.Fault("away", 1.0, 2.0), history.Fault("away", 4.0, 5.0), history.Fault("other", 0.0, 9.0)]
    attempts = [
        attempt("a", ended=4.5),
        attempt("b", ended=5.5, duplicate=True),
        attempt("c", ended=6.0, outcome=UNKNOWN),
        attempt("d", ended=7.0),
    ]
    assert checker.recovery_s(history.Told(attempts, faults, {}), "away") == 2.0
    assert checker.recovery_s(history.Told(attempts[:3], faults, {}), "away") == math.inf


def test_a_verdict_says_in_sentences_what_it_found() -> None:
    [sentence] = check([attempt(name) for name in "abcd"], [], []).sentences
    assert sentence == "acknowledged and lost: 4, e.g. a, b, c"


def test_a_history_is_read_back_as_it_was_written(tmp_path: pathlib.Path) -> None:
    written = history.History(tmp_path / "history.jsonl", seed=5)
    first = written.invoke("a", "up", 0)
    written.begin(checker.AWAY)
    second = written.invoke("b", "down", 1, amends="a")
    written.answered(first, OK, duplicate=True)
    written.end(checker.AWAY)
    written.answered(second, UNKNOWN, reason="UNAVAILABLE")
    written.begin(checker.AWAY)
    written.invoke("c", "up", 0)
    assert written.acknowledged == 1
    told = history.read(tmp_path / "history.jsonl")  # while it is written: a crash of the harness keeps what was
    one, other, last = told.attempts
    assert (one.feedback_id, one.digest, one.outcome, one.duplicate) == ("a", "up", OK, True)
    assert (other.replica, other.outcome, other.reason, other.took > 0) == (1, UNKNOWN, "UNAVAILABLE", True)
    assert (last.outcome, last.took) == (history.Outcome.OPEN, math.inf)
    assert told.amends == {"b": "a"}
    over, still = told.faults
    assert one.began < over.began < other.began < over.ended <= (other.ended or 0) < still.began
    assert still.ended == math.inf
    written.close()
