"""What a release has shown: its sessions with their outcomes, and totals per arm. Asked by the rollout controller.

The unit is the session, by its first randomised exposure to the release; one that met it in an earlier stage does not
count. Arm and propensity are those of that exposure; the outcome is the mean of the session's votes (a thumb is 0 or
1, s of S stars are (s - 1) / (S - 1)) on the release's completions, given up to the maturity window after it. Other
kinds of feedback are no votes. Whether any of this proves a thing is the rollout's.
"""

import sqlalchemy as sa

from trimtab.bus import topics
from trimtab.core import clock, completions, errors, ledger
from trimtab.ledger.store import database, offsets, rows, tables

_STAGE = "evidence"
_SOURCES = (topics.COMPLETIONS.name, topics.FEEDBACK.name)


def evidence(store: database.Database, request: ledger.EvidenceRequest, now: clock.Clock) -> ledger.EvidenceResponse:
    """One moment of the database: sessions, totals and the offsets they follow from. Unknown releases have no sessions.

    A session is mature when its first exposure lies `maturity_s` seconds back. InvalidField for a negative window.
    """
    if not request.maturity_s >= 0:
        raise errors.InvalidField("maturity_s", f"is {request.maturity_s}", "give seconds, 0 or more")
    window_us = int(min(request.maturity_s, 1e10) * 1_000_000)
    mature_us = rows.to_us(now()) - window_us
    with store.read() as connection:
        return ledger.EvidenceResponse(
            sessions=_sessions(connection, request, window_us, mature_us),
            totals=_totals(connection, request),
            consumed=offsets.consumed(connection, _SOURCES),
        )


def _sessions(
    connection: sa.Connection, request: ledger.EvidenceRequest, window_us: int, mature_us: int
) -> tuple[ledger.SessionOutcome, ...]:
    exposure, vote = tables.EXPOSURES, tables.VOTES
    in_time = sa.and_(
        vote.c.release_id == exposure.c.release_id,
        vote.c.tenant == exposure.c.tenant,
        vote.c.session == exposure.c.session,
        vote.c.occurred_us <= exposure.c.exposed_us + window_us,
    )
    columns = (
        exposure.c.session,
        exposure.c.exposed_us,
        exposure.c.completion_id,
        exposure.c.arm,
        exposure.c.propensity,
    )
    query = (
        sa.select(*columns, sa.func.count(vote.c.example_id), sa.func.avg(vote.c.outcome))
        .select_from(exposure.outerjoin(vote, in_time))
        .where(
            exposure.c.release_id == request.release_id,
            exposure.c.tenant == request.tenant,
            exposure.c.stage == _STAGE,
        )
        .group_by(*columns)
        .order_by(exposure.c.exposed_us, exposure.c.completion_id)
    )
    return tuple(
        ledger.SessionOutcome(
            arm=completions.Arm(arm),
            propensity=propensity,
            exposed_at=rows.from_us(exposed_us),
            votes=count,
            mature=exposed_us <= mature_us,
            outcome=mean,
        )
        for _, exposed_us, _, arm, propensity, count, mean in connection.execute(query)
    )


def _totals(connection: sa.Connection, request: ledger.EvidenceRequest) -> tuple[ledger.ArmTotals, ...]:
    total, vote = tables.ARM_TOTALS, tables.VOTES
    of_release = (vote.c.release_id == request.release_id, vote.c.tenant == request.tenant)
    counted = sa.select(vote.c.arm, sa.func.count(), sa.func.sum(vote.c.outcome)).where(*of_release)
    votes = {arm: (count, added) for arm, count, added in connection.execute(counted.group_by(vote.c.arm))}
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
