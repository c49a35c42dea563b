"""What a release has shown: its sessions with their outcomes, and totals per arm. Asked by the rollout controller.

The unit is the session, by its first randomised exposure to the release. Stage, arm, propensity, segment and what the
policy measured of the answer are those of that exposure; the outcome is the mean of the session's votes (a thumb is 0
or 1, s of S stars are (s - 1) / (S - 1)) on the release's completions, given up to the maturity window after it: later
ones are only numbered. Other kinds of feedback are no votes, and of votes by the same people only those count that
`core.caps` lets pass, over the sessions of every stage in order of exposure. Which sessions count and whether they
prove a thing is the rollout's.
"""

import datetime
import itertools
import math
from typing import Any

import sqlalchemy as sa

from trimtab.bus import topics
from trimtab.core import caps, completions, errors, ledger, releases
from trimtab.ledger.store import database, offsets, rows, tables

_SOURCES = (topics.COMPLETIONS.name, topics.FEEDBACK.name, topics.SCORES.name)


def evidence(
    store: database.Database, request: ledger.EvidenceRequest, at: datetime.datetime
) -> ledger.EvidenceResponse:
    """One moment of the database: sessions, totals and the offsets they follow from. Unknown releases have no sessions.

    A session is mature when its first exposure lies `maturity_s` seconds before `at`. InvalidField for a bad window.
    """
    if not request.maturity_s >= 0:
        raise errors.InvalidField("maturity_s", f"is {request.maturity_s}", "give seconds, 0 or more")
    window_us = int(min(request.maturity_s, 1e10) * 1_000_000)
    mature_us = rows.to_us(at) - window_us
    with store.read() as connection:
        return ledger.EvidenceResponse(
            sessions=_sessions(connection, request, window_us, mature_us),
            totals=_totals(connection, request),
            consumed=offsets.consumed(connection, _SOURCES),
            at=at,
        )


def _sessions(
    connection: sa.Connection, request: ledger.EvidenceRequest, window_us: int, mature_us: int
) -> tuple[ledger.SessionOutcome, ...]:
    exposure, vote, score = tables.EXPOSURES, tables.EXAMPLES, tables.SCORES
    on_it = sa.and_(
        vote.c.release_id == exposure.c.release_id,
        vote.c.tenant == exposure.c.tenant,
        vote.c.session == exposure.c.session,
    )
    columns = (
        exposure.c.session,
        exposure.c.exposed_us,
        exposure.c.arm,
        exposure.c.propensity,
        exposure.c.stage,
        exposure.c.segment,
        exposure.c.latency_s,
        exposure.c.tokens,
        exposure.c.refused,
        exposure.c.repeats,
        exposure.c.failed,
        score.c.reward,
        vote.c.occurred_us,
        vote.c.outcome,
        vote.c.rater,
        vote.c.network,
    )
    scored = sa.and_(score.c.completion_id == exposure.c.completion_id, score.c.tenant == exposure.c.tenant)
    query = (
        sa.select(*columns)
        .select_from(exposure.outerjoin(score, scored).outerjoin(vote, on_it))
        .where(
            exposure.c.release_id == request.release_id,
            exposure.c.tenant == request.tenant,
            exposure.c.stage.in_(releases.WATCHED_STATES),
        )
        .order_by(exposure.c.exposed_us, exposure.c.completion_id)
    )
    found, limits = [], caps.Caps(request.rater_sessions, request.network_sessions)
    for _, group in itertools.groupby(connection.execute(query), key=lambda row: row.session):
        first, *others = group
        given = [row for row in (first, *others) if row.outcome is not None]
        in_time = [row for row in given if row.occurred_us <= first.exposed_us + window_us]
        cast = [caps.Vote(row.outcome, row.rater, row.network) for row in in_time]
        votes = limits.counted(cast)
        found.append(
            ledger.SessionOutcome(
                arm=completions.Arm(first.arm),
                propensity=first.propensity,
                exposed_at=rows.from_us(first.exposed_us),
                votes=len(votes),
                mature=first.exposed_us <= mature_us,
                # rounded once, so the order in which votes came does not show in the last bit
                outcome=math.fsum(votes) / len(votes) if votes else None,
                stage=first.stage,
                first=_first_answer(first),
                capped=len(cast) - len(votes),
                segment=first.segment,
                late=len(given) - len(in_time),
            )
        )
    return tuple(found)


def _first_answer(row: Any) -> ledger.FirstAnswer | None:
    if row.latency_s is None:
        return None
    return ledger.FirstAnswer(row.latency_s, row.tokens, row.refused, row.repeats, bool(row.failed), row.reward)


def _totals(connection: sa.Connection, request: ledger.EvidenceRequest) -> tuple[ledger.ArmTotals, ...]:
    total, vote = tables.ARM_TOTALS, tables.EXAMPLES
    of_release = (vote.c.release_id == request.release_id, vote.c.tenant == request.tenant)
    votes = rows.summed(connection.execute(rows.tallied(vote.c.arm, vote.c.outcome).where(*of_release)))
    arms = (
        sa.select(total)
        .where(total.c.release_id == request.release_id, total.c.tenant == request.tenant)
        .order_by(total.c.arm)
    )
    return tuple(
        ledger.ArmTotals(
            arm=completions.Arm(row.arm),
            completions=row.completions,
            completion_tokens=row.completion_tokens,
            votes=votes.get(row.arm, (0, 0.0))[0],
            vote_sum=votes.get(row.arm, (0, 0.0))[1],
            mean_latency_s=row.latency_s / row.completions,
        )
        for row in connection.execute(arms)
    )
