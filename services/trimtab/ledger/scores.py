"""Scores of sessions' first answers: topic `scores` as a table, and which answers have none yet.

`consumer` adds; the rollout controller asks for the unscored ones (`rollout.scoring`), has them scored and writes the
topic. `evidence` reads the table.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from trimtab.core import completions, errors, ledger, releases, scoring, text
from trimtab.ledger import answers
from trimtab.ledger.store import completions as completion_store
from trimtab.ledger.store import database, rows, tables

# Of text in one answer to a question: well below what a message between processes may hold.
_MAX_BYTES = 4 * 1024 * 1024
_SCORES = tables.SCORES


def add(connection: sa.Connection, scored: Sequence[scoring.AnswerScore]) -> None:
    """Stores the scores that are new, before or after their completions; the first of an answer counts.

    What is no finite number is stored as unscored.
    """
    query = sa.select(_SCORES.c.completion_id, _SCORES.c.tenant)
    wanted = (one.completion_id for one in scored)
    known = {
        (row.completion_id, row.tenant) for row in rows.matching(connection, query, _SCORES.c.completion_id, wanted)
    }
    fresh: dict[tuple[str, str], dict[str, Any]] = {}
    for one in scored:
        key = (one.completion_id, one.context.tenant)
        if key not in known:
            fresh.setdefault(key, _row(one))
    rows.insert(connection, _SCORES, list(fresh.values()))


def unscored(store: database.Database, request: ledger.UnscoredRequest) -> ledger.UnscoredResponse:
    """First answers of a release that can be scored and are not, oldest first. InvalidField for a limit below 1."""
    if request.limit < 1:
        raise errors.InvalidField("limit", f"is {request.limit}", "ask for 1 answer or more")
    exposure = tables.EXPOSURES
    scored = sa.and_(_SCORES.c.completion_id == exposure.c.completion_id, _SCORES.c.tenant == exposure.c.tenant)
    query = (
        sa.select(exposure.c.completion_id)
        .select_from(exposure.outerjoin(_SCORES, scored))
        .where(
            exposure.c.scorable,
            exposure.c.release_id == request.release_id,
            exposure.c.tenant == request.tenant,
            exposure.c.stage.in_(releases.WATCHED_STATES),
            _SCORES.c.completion_id.is_(None),
        )
        .order_by(exposure.c.exposed_us, exposure.c.completion_id)
        .limit(request.limit)
    )
    with store.read() as connection:
        wanted = [answers.uuid_of(completion_id).bytes for completion_id in connection.scalars(query)]
        found = completion_store.of_tenant(connection, request.tenant, wanted)
    return ledger.UnscoredResponse(_within(_MAX_BYTES, [_unscored(completion) for completion in found]))


def _row(one: scoring.AnswerScore) -> dict[str, Any]:
    outcome = scoring.finite(one.outcome)
    return {
        "completion_id": one.completion_id,
        "tenant": one.context.tenant,
        "reward": None if isinstance(outcome, str) else outcome,
        "reason": outcome if isinstance(outcome, str) else "",
    }


def _unscored(completion: completions.Completion) -> ledger.UnscoredAnswer:
    return ledger.UnscoredAnswer(
        completion.id, completion.context.session_hash, completion.prompt, completion.responses[0].text
    )


def _within(size: int, found: Sequence[ledger.UnscoredAnswer]) -> tuple[ledger.UnscoredAnswer, ...]:
    """The first ones, one at least, whose text has so many bytes at most."""
    taken, total = 0, 0
    for one in found:
        total += sum(_size(body) for body in (one.response, *(message.content for message in one.prompt)))
        if taken and total > size:
            break
        taken += 1
    return tuple(found[:taken])


def _size(one: text.Text) -> int:
    return len(one.read().encode())
