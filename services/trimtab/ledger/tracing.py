"""Where things came from and what became of them: the chain of an id, and the family of a model.

completion -> feedback -> example -> data set -> model -> release. Asked by `trimtab feedback trace` and the console.
"""

import graphlib
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from trimtab.core import errors, feedback, ids, ledger, models
from trimtab.ledger import quarantine, unjoinable
from trimtab.ledger.store import completions as completion_store
from trimtab.ledger.store import database, lineage, rows, tables
from trimtab.ledger.store import examples as example_store
from trimtab.ledger.store import feedback as feedback_store

_FEEDBACK, _EXAMPLES = tables.FEEDBACK, tables.EXAMPLES


def trace(store: database.Database, request: ledger.TraceRequest, overdue_us: int = 0) -> ledger.TraceResponse:
    """Everything a completion, feedback or example id is part of; NotFound when the tenant has nothing under it.

    overdue_us: see `unjoinable`.
    """
    with store.read() as connection:
        own = _own_uuid(connection, request)
        found = _feedback(connection, request, own)
        events = {pk: rows.decoded(row, feedback.FeedbackEvent) for pk, row in found.items()}
        subjects = own.union(*map(_subjects, events.values()))
        answers = tuple(completion_store.of_tenant(connection, request.tenant, sorted(subjects)))
        named = {row.example_id for row in found.values() if row.example_id}
        if not answers and not found:
            raise errors.NotFound("completion, feedback or example", request.id)
        datasets = lineage.memberships(connection, request.tenant, sorted(named))
        used = {membership.dataset_id for membership in datasets}
        made = lineage.models_by_id(connection, request.tenant, sorted(used | lineage.made_from(connection, used)))
        return ledger.TraceResponse(
            completions=answers,
            feedback=tuple(_traced(row, events[row.pk], overdue_us) for row in sorted(found.values(), key=_order)),
            examples=tuple(example_store.current(connection, _newest(connection, named))),
            datasets=datasets,
            models=parents_first(made),
            releases=lineage.releases_of(connection, request.tenant, sorted(made)),
            quarantined_by=quarantine.holding(connection, request.tenant, sorted(named)),
        )


def trace_model(store: database.Database, request: ledger.LineageRequest) -> ledger.LineageResponse:
    """What a model (or data set) was made from and what was made from it; NotFound when it is not the tenant's."""
    with store.read() as connection:
        own = lineage.models_by_id(connection, request.tenant, [request.model_id])
        if not own:
            raise errors.NotFound("model", request.model_id)
        model = own[request.model_id]
        above = lineage.sources_of(connection, [model.id])
        below = lineage.made_from(connection, [model.id])
        datasets = [model.id] if model.kind is models.ModelKind.DATASET else model.datasets
        return ledger.LineageResponse(
            model=model,
            ancestors=parents_first(lineage.models_by_id(connection, request.tenant, sorted(above))),
            descendants=parents_first(lineage.models_by_id(connection, request.tenant, sorted(below))),
            releases=lineage.releases_of(connection, request.tenant, [model.id]),
            trained_examples=lineage.trained_examples(connection, datasets),
        )


def parents_first(made: Mapping[str, models.PublishedModel]) -> tuple[models.PublishedModel, ...]:
    """Every model after all it was made from; what stands free of each other, by time of publishing."""
    graph = graphlib.TopologicalSorter(
        {name: {*model.parents, *model.datasets} & made.keys() for name, model in made.items()}
    )
    graph.prepare()
    ordered: list[models.PublishedModel] = []
    while graph.is_active():
        ready = sorted((made[name] for name in graph.get_ready()), key=lambda model: (model.published_at, model.id))
        ordered += ready
        graph.done(*(model.id for model in ready))
    return tuple(ordered)


def _own_uuid(connection: sa.Connection, request: ledger.TraceRequest) -> set[bytes]:
    """The UUID of a completion id, when the tenant has the completion or feedback about it."""
    try:
        subject = ids.uuid_of(request.id).bytes
    except errors.ForgedCompletionId:
        return set()
    return {subject}


def _feedback(connection: sa.Connection, request: ledger.TraceRequest, own: set[bytes]) -> dict[int, sa.Row[Any]]:
    """Events about the completion, under the feedback id, or of the example; then their whole chains and identities."""
    mine = sa.select(_FEEDBACK).where(_FEEDBACK.c.tenant == request.tenant)
    sessions = {newest.session for newest in _newest(connection, {request.id})}
    seeds = [
        *feedback_store.about(connection, mine, own),
        *rows.matching(connection, mine, _FEEDBACK.c.feedback_id, [request.id]),
        *(row for row in rows.matching(connection, mine, _FEEDBACK.c.scope, sessions) if row.example_id == request.id),
    ]
    found = {row.pk: row for row in seeds}
    chains = {row.example_id for row in seeds if row.example_id}
    identities = {(row.uuid, row.feedback_id) for row in seeds}
    # what is one chain is of one session
    for row in rows.matching(connection, mine, _FEEDBACK.c.scope, sorted({row.scope for row in seeds})):
        if row.example_id in chains:
            found[row.pk] = row
    for row in rows.matching(connection, mine, _FEEDBACK.c.uuid, sorted({subject for subject, _ in identities})):
        if (row.uuid, row.feedback_id) in identities:
            found[row.pk] = row
    return found


def _subjects(event: feedback.FeedbackEvent) -> set[bytes]:
    """The UUIDs of the answers it is about."""
    return {ids.uuid_of(target.completion_id).bytes for target in feedback.targets(event.kind)}


def _newest(connection: sa.Connection, named: set[str]) -> list[example_store.Newest]:
    columns = (_EXAMPLES.c[name] for name in example_store.Newest.__dataclass_fields__)
    found = rows.matching(connection, sa.select(*columns), _EXAMPLES.c.example_id, sorted(named))
    return sorted(
        (example_store.Newest(**row._mapping) for row in found), key=lambda item: (item.partition, item.sequence)
    )


def _order(row: sa.Row[Any]) -> tuple[int, int, int]:
    return row.partition, row.offset, row.pk


def _traced(row: sa.Row[Any], event: feedback.FeedbackEvent, overdue_us: int) -> ledger.TracedFeedback:
    return ledger.TracedFeedback(event, unjoinable.status_of(row, overdue_us), row.reason, row.copies)
