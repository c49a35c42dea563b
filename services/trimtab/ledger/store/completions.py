"""Completions: kept as they stood in the log, read back as answers; and what a release's arms have shown.

Called by `settling`, `tracing` and `scores`; `evidence` and `scores` read the tables filled here.
"""

import collections
import dataclasses
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from trimtab.bus import port
from trimtab.core import completions
from trimtab.ledger import answers
from trimtab.ledger.store import rows, tables

_CACHED = 4_000


@dataclasses.dataclass(frozen=True, slots=True)
class Arrival:
    """A record of topic `completions`, decoded, and as the join sees it."""

    record: port.Record
    completion: completions.Completion
    answer: answers.Answer


class Completions:
    """Remembers the answers it saw last: feedback mostly comes soon after. Used by one thread."""

    def __init__(self) -> None:
        self._cache: collections.OrderedDict[uuid.UUID, dict[str, answers.Answer]] = collections.OrderedDict()

    def add(self, connection: sa.Connection, batch: Sequence[Arrival]) -> list[answers.Answer]:
        """Stores the completions that are new; the first record of an id counts. Returns theirs."""
        known = self.load(connection, (arrival.answer.uuid for arrival in batch))
        fresh: dict[tuple[uuid.UUID, str], Arrival] = {}
        for arrival in batch:
            answer = arrival.answer
            if answer.context.tenant not in known.get(answer.uuid, {}):
                fresh.setdefault((answer.uuid, answer.context.tenant), arrival)
        rows.insert(connection, tables.COMPLETIONS, [_row(arrival) for arrival in fresh.values()])
        served = [arrival.completion for arrival in fresh.values() if arrival.answer.release_id]
        _add_to_totals(connection, served)
        _expose(connection, served)
        for (item, tenant), arrival in fresh.items():
            self._remember({**known.get(item, {}), tenant: arrival.answer}, item)
        return [arrival.answer for arrival in fresh.values()]

    def load(
        self, connection: sa.Connection, wanted: Iterable[uuid.UUID]
    ) -> dict[uuid.UUID, dict[str, answers.Answer]]:
        """The answers with these UUIDs, of whichever tenant."""
        found: dict[uuid.UUID, dict[str, answers.Answer]] = {}
        missing = []
        for item in dict.fromkeys(wanted):
            if item in self._cache:
                found[item] = self._cache[item]
            else:
                missing.append(item)
        table = tables.COMPLETIONS
        query = sa.select(table.c.uuid, table.c.tenant, table.c.value, table.c.schema)
        loaded: dict[uuid.UUID, dict[str, answers.Answer]] = collections.defaultdict(dict)
        for row in rows.matching(connection, query, table.c.uuid, (item.bytes for item in missing)):
            loaded[uuid.UUID(bytes=row.uuid)][row.tenant] = answers.answer_of(rows.decoded(row, completions.Completion))
        for item, by_tenant in loaded.items():
            self._remember(by_tenant, item)
        return found | loaded

    def _remember(self, by_tenant: dict[str, answers.Answer], item: uuid.UUID) -> None:
        self._cache[item] = by_tenant
        self._cache.move_to_end(item)
        while len(self._cache) > _CACHED:
            self._cache.popitem(last=False)

    def forget(self) -> None:
        """After a transaction that did not commit: nothing it stored is stored."""
        self._cache.clear()


def of_tenant(connection: sa.Connection, tenant: str, wanted: Iterable[bytes]) -> list[completions.Completion]:
    """Whole completions, oldest first."""
    table = tables.COMPLETIONS
    query = sa.select(table.c.value, table.c.schema).where(table.c.tenant == tenant)
    found = [
        rows.decoded(row, completions.Completion) for row in rows.matching(connection, query, table.c.uuid, wanted)
    ]
    return sorted(found, key=lambda completion: (completion.created_at, completion.id))


def _row(arrival: Arrival) -> dict[str, Any]:
    context = arrival.answer.context
    return {
        "uuid": arrival.answer.uuid.bytes,
        "tenant": context.tenant,
        "line": context.line,
        "session": context.session_hash,
        **rows.bytes_of(arrival.record),
    }


def _add_to_totals(connection: sa.Connection, served: Sequence[completions.Completion]) -> None:
    sums: dict[tuple[str, str, str], list[float]] = collections.defaultdict(lambda: [0, 0, 0.0])
    for completion in served:
        exposure = completion.exposure
        if exposure is None or exposure.arm is None:
            continue
        total = sums[exposure.release_id, completion.context.tenant, exposure.arm.value]
        total[0] += 1
        total[1] += sum(len(response.token_ids) for response in completion.responses)
        total[2] += completion.latency_s
    table = tables.ARM_TOTALS
    for (release_id, tenant, arm), (count, tokens, latency_s) in sums.items():
        key = sa.and_(table.c.release_id == release_id, table.c.tenant == tenant, table.c.arm == arm)
        grown = {
            table.c.completions: table.c.completions + int(count),
            table.c.completion_tokens: table.c.completion_tokens + int(tokens),
            table.c.latency_s: table.c.latency_s + latency_s,
        }
        if connection.execute(sa.update(table).where(key).values(grown)).rowcount == 0:
            row = {"release_id": release_id, "tenant": tenant, "arm": arm, "completions": int(count)}
            rows.insert(connection, table, [row | {"completion_tokens": int(tokens), "latency_s": latency_s}])


def _expose(connection: sa.Connection, served: Sequence[completions.Completion]) -> None:
    """Keeps the first randomised exposure of every session, in order of creation and not of arrival."""
    first: dict[tuple[str, str], dict[bytes, dict[str, Any]]] = collections.defaultdict(dict)
    for completion in served:
        exposure = completion.exposure
        if exposure is None or not exposure.randomised or exposure.arm is None:
            continue
        row = _exposed(completion, exposure, exposure.arm)
        of_release = first[row["release_id"], row["tenant"]]
        if row["session"] not in of_release or _earlier(row, of_release[row["session"]]):
            of_release[row["session"]] = row
    for of_release in first.values():
        _keep_first(connection, of_release)


def _keep_first(connection: sa.Connection, first: dict[bytes, dict[str, Any]]) -> None:
    """By session, of one release and tenant."""
    table = tables.EXPOSURES
    one = next(iter(first.values()))
    mine = sa.and_(table.c.release_id == one["release_id"], table.c.tenant == one["tenant"])
    found = rows.matching(connection, sa.select(table).where(mine), table.c.session, first)
    stored = {row.session: row._mapping for row in found}
    changed = [session for session, row in first.items() if session not in stored or _earlier(row, stored[session])]
    for session in changed:
        if session in stored:
            connection.execute(sa.delete(table).where(mine, table.c.session == session))
    rows.insert(connection, table, [first[session] for session in changed])


def _exposed(
    completion: completions.Completion, exposure: completions.Exposure, arm: completions.Arm
) -> dict[str, Any]:
    seen = completion.measured
    return {
        "release_id": exposure.release_id,
        "tenant": completion.context.tenant,
        "session": completion.context.session_hash,
        "exposed_us": rows.to_us(completion.created_at),
        "completion_id": completion.id,
        "arm": arm.value,
        "propensity": exposure.propensity,
        "stage": exposure.stage,
        "segment": completion.segment,
        "scorable": is_scorable(completion),
        "latency_s": completion.latency_s if seen else None,
        "tokens": seen.tokens if seen else None,
        "refused": seen.refused if seen else None,
        "repeats": seen.repeats if seen else None,
        "failed": seen.failed if seen else None,
    }


def is_scorable(completion: completions.Completion) -> bool:
    """Whether its text may be read, and is in the clear; else nothing can score it."""
    if not completion.context.store or not completion.prompt or not completion.responses:
        return False
    read = [*(message.content for message in completion.prompt), completion.responses[0].text]
    return all(isinstance(one.body, str) for one in read)


def _earlier(one: Any, other: Any) -> bool:
    return bool((one["exposed_us"], one["completion_id"]) < (other["exposed_us"], other["completion_id"]))
