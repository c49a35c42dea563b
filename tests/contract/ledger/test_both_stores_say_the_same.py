"""One log in two stores, SQLite and a real PostgreSQL: the same tables to the last byte, the same answers."""

import contextlib
import dataclasses
import random
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import hypothesis
from hypothesis import strategies
from tests.postgres.server import Server
from tests.unit.ledger import making
from tests.unit.ledger.test_any_arrival_order import arrivals, logs
from tests.unit.ledger.test_twenty_thousand_events import answers, said_in

from trimtab.bus import port, topics
from trimtab.core import audit, completions, ledger, scoring, text
from trimtab.ledger import auditing, counting, evidence, scores, tracing
from trimtab.ledger.store import rows, tables

SESSIONS, SEED = 70, 7
STAGES = ("safety", "evidence")
RELEASES = ("rel", "Rel")
# Text that databases order differently, unless told not to, and text that PostgreSQL refuses.
SEGMENTS = ("", "b", "B", "ä", "a\0b", "a\1b", "\1\2", "line\nbreak", "😀")


@contextlib.contextmanager
def both(server: Server) -> Iterator[tuple[making.Ledger, making.Ledger]]:
    url = server.create()
    with (
        tempfile.TemporaryDirectory() as folder,
        making.ledger(f"sqlite:///{folder}/ledger.db") as one,
        making.ledger(url) as other,
    ):
        yield one, other
    server.recycle(url)


def contents(store: making.Ledger) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table."""
    with store.store.read() as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(table.select())), key=repr)
            for table in tables.METADATA.sorted_tables
        }


def told(store: making.Ledger, ids: Sequence[str] = ()) -> list[Any]:
    """What the ledger answers to all there is to ask."""
    asked: list[Any] = []
    for release in RELEASES:
        for limit in (0.0, 2.0):
            request = ledger.EvidenceRequest(making.TENANT, release, 50.0, limit, 2 * limit)
            asked.append(evidence.evidence(store.store, request, making.at(100.0)))
        asked.append(scores.unscored(store.store, ledger.UnscoredRequest(making.TENANT, release, 50)))
    for overdue_us in (0, rows.to_us(making.at(1.0))):
        counted = [ledger.CountsRequest(making.TENANT, line) for line in ("", making.LINE)]
        asked += [counting.counts(store.store, request, overdue_us) for request in counted]
        asked += [tracing.trace(store.store, ledger.TraceRequest(making.TENANT, one), overdue_us) for one in ids]
    asked.append(auditing.listed(store.store, ledger.ListAuditRequest(making.TENANT)))
    return asked


@hypothesis.given(records=logs(), order=strategies.randoms(use_true_random=False))
@hypothesis.settings(max_examples=25, deadline=None)
def test_any_log_in_any_order(postgres: Server, records: list[port.Record], order: random.Random) -> None:
    with both(postgres) as (one, other):
        for batch in arrivals(records, order, cut=0.3):
            one.feed(batch)
            other.feed(batch)
        assert contents(one) == contents(other)
        assert told(one) == told(other)


def exposed(rng: random.Random, answer: completions.Completion) -> completions.Completion:
    """As a release serves it; many at the same moment, so that ids decide which came first."""
    arm = rng.choice(list(completions.Arm))
    exposure = making.exposed(rng.choice(RELEASES), arm, rng.choice(STAGES), propensity=rng.choice([0.5, 0.1]))
    return dataclasses.replace(
        answer,
        exposure=exposure,
        segment=rng.choice(SEGMENTS),
        latency_s=rng.random(),
        measured=completions.Measured(tokens=rng.random() * 100) if rng.random() < 0.7 else None,
    )


def mixture(rng: random.Random) -> tuple[list[port.Record], list[str]]:
    """Answers, every kind of feedback about them, scores and operators' acts; some twice, some never answered."""
    answered = [[exposed(rng, one) for one in answers(rng, session)] for session in range(SESSIONS)]
    said = [
        dataclasses.replace(event, rater=dataclasses.replace(event.rater, network=rng.choice(["", "net", "n\0"])))
        for ours in answered
        for event in said_in(rng, ours)
    ]
    said += [making.thumb(ours[0], "bare", bare=True, up=rng.random() < 0.5) for ours in answered[::5]]
    served = [one for ours in answered for one in ours if rng.random() < 0.95]
    scored = [
        scoring.AnswerScore(one.id, one.context, "rel", "reward", "digest", making.at(2.0), rng.gauss(0.0, 1.0))
        for one in served[::2]
    ]
    context = text.Context(making.TENANT, making.LINE)
    acts = [audit.AuditRecord(name, context, making.NOW, "ann", "promote", "rel", "why") for name in ("b", "B", "a")]
    values: list[Any] = [*served, *said, *rng.sample(said, len(said) // 10), *scored]
    rng.shuffle(values)
    sources = making.Sources()
    records = [sources.record(value) for value in values] + [sources.record(act, topics.AUDIT) for act in acts]
    return records, sorted({event.id for event in said})


def test_a_mixture_of_everything(postgres: Server) -> None:
    rng = random.Random(SEED)
    records, ids = mixture(rng)
    with both(postgres) as (one, other):
        for batch in arrivals(records, rng, cut=0.02):
            one.feed(batch)
            other.feed(batch)
        found = contents(one)
        assert found == contents(other)
        assert told(one, ids) == told(other, ids)
        assert [example.sequence for example in one.emitted()] == [example.sequence for example in other.emitted()]
        shown = evidence.evidence(one.store, ledger.EvidenceRequest(making.TENANT, "rel", 50.0, 2.0), making.at(100.0))
    assert len(found["outbox"]) > len(found["examples"]) > 400
    assert {len(found[name]) > 10 for name in ("exposures", "scores", "feedback_targets")} == {True}
    assert len({total.vote_sum for total in shown.totals} - {0.0}) == len(completions.Arm)
    assert sum(session.votes for session in shown.sessions) > 10
