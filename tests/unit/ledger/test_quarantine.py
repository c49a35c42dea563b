"""What is in quarantine counts as that in the books until it is released, whatever arrives first."""

import dataclasses

import pytest
from tests.unit.ledger import making
from tests.unit.ledger.test_chain_of_an_id import CONTEXT, Folders, folders, published, release, store

from trimtab.core import audit, ledger, models, releases
from trimtab.ledger import auditing, counting, quarantine, tracing

__all__ = ["folders", "store"]

DATASET = models.ModelKind.DATASET


def held(*, released: bool = False, dataset: str = "second", previous: str = "first") -> releases.Release:
    """A release that ended worse, and its quarantine."""
    found = releases.Quarantine(making.at(9), dataset, previous, ("reward",), making.at(11) if released else None)
    ended = dataclasses.replace(release("rel", "a-policy"), state=releases.ReleaseState.ROLLED_BACK)
    return dataclasses.replace(ended, quarantine=found, revision=3 if released else 2)


def cut_twice(folders: Folders) -> list[models.PublishedModel]:
    """Data set "first" used e0 and e1; "second" used e0, e1, e2 and held out e3, and rejected e4."""
    folders.write("first", [("e0", "trained", ""), ("e1", "held out", ""), ("e2", "rejected", "rater limit")])
    used = [("e0", "trained", ""), ("e1", "held out", ""), ("e2", "trained", ""), ("e3", "held out", "")]
    folders.write("second", [*used, ("e4", "rejected", "empty text")])
    return [published("first", DATASET), published("second", DATASET)]


def counts(store: making.Ledger, line: str = making.LINE) -> dict[str, int]:
    return counting.counts(store.store, ledger.CountsRequest(making.TENANT, line)).dispositions


def listed(store: making.Ledger, tenant: str = making.TENANT, line: str = "") -> list[tuple[str, int, bool]]:
    found = quarantine.listed(store.store, ledger.ListQuarantinesRequest(tenant, line))
    return [
        (entry.release.id, entry.examples, entry.release.quarantine is not None and entry.release.quarantine.in_force)
        for entry in found.entries
    ]


def test_the_window_is_what_the_data_set_used_and_the_one_before_did_not(
    store: making.Ledger, folders: Folders
) -> None:
    store.take(*cut_twice(folders))
    assert counts(store) == {"trained": 2, "held out": 2, "rejected": 1}
    store.take(held())
    assert counts(store) == {"trained": 1, "held out": 1, "rejected": 1, "quarantined": 2}
    assert listed(store) == [("rel", 2, True)]
    assert listed(store, "globex") == [] and listed(store, line="sales") == []
    assert counts(store, "") == counts(store)


@pytest.mark.parametrize("position", range(3))
def test_the_books_are_the_same_whatever_arrives_first(store: making.Ledger, folders: Folders, position: int) -> None:
    records: list[models.PublishedModel | releases.Release] = [*cut_twice(folders)]
    for record in (*records[:position], held(), *records[position:]):
        store.take(record)
    assert counts(store) == {"trained": 1, "held out": 1, "rejected": 1, "quarantined": 2}


def test_released_examples_count_as_they_were_used_last(store: making.Ledger, folders: Folders) -> None:
    store.take(*cut_twice(folders), held())
    folders.write("third", [("e0", "trained", ""), ("e2", "quarantined", "why"), ("e3", "quarantined", "why")])
    store.take(published("third", DATASET))
    assert counts(store) == {"trained": 1, "held out": 1, "rejected": 1, "quarantined": 2}
    store.take(held(released=True))
    assert counts(store) == {"trained": 2, "held out": 2, "rejected": 1}
    assert listed(store) == [("rel", 2, False)]


def test_a_first_data_set_is_quarantined_whole_and_none_without_a_window(
    store: making.Ledger, folders: Folders
) -> None:
    store.take(*cut_twice(folders), held(previous=""))
    assert counts(store) == {"rejected": 1, "quarantined": 4}
    store.take(held(dataset=""))
    assert "quarantined" not in counts(store)
    assert listed(store) == [("rel", 0, True)]


def test_a_replaced_controllers_record_releases_nothing(store: making.Ledger, folders: Folders) -> None:
    store.take(*cut_twice(folders), dataclasses.replace(held(), generation=5))
    store.take(dataclasses.replace(held(released=True), generation=4))
    assert counts(store)["quarantined"] == 2


def test_a_trace_names_the_release_that_holds_an_example(store: making.Ledger, folders: Folders) -> None:
    answer = making.completion()
    store.take(answer, making.thumb(answer, "vote"))
    [example_id] = store.newest()
    folders.write("second", [(example_id, "trained", "")])
    store.take(published("second", DATASET), held())
    request = ledger.TraceRequest(making.TENANT, "vote")
    assert tracing.trace(store.store, request).quarantined_by == ("rel",)
    store.take(held(released=True))
    assert tracing.trace(store.store, request).quarantined_by == ()


def test_votes_are_counted_by_the_policy_that_answered_as_they_stand(store: making.Ledger) -> None:
    answers = [making.completion(f"s{number}") for number in range(4)]
    for number, answer in enumerate(answers):
        store.take(answer, making.thumb(answer, f"f{number}", up=number > 0))
    request = ledger.CountsRequest(making.TENANT, making.LINE)
    assert counting.counts(store.store, request).votes == (ledger.PolicyVotes("policy", 4, 3.0),)
    store.take(making.thumb(answers[0], "changed", up=True, occurred=5.0, supersedes=["f0"]))
    assert counting.counts(store.store, request).votes == (ledger.PolicyVotes("policy", 4, 4.0),)
    assert counting.counts(store.store, ledger.CountsRequest("globex", "")).votes == ()


def test_acts_are_listed_newest_first_once_each(store: making.Ledger) -> None:
    acts = [
        audit.AuditRecord(f"a{number}", CONTEXT, making.at(number), "ann", "release.pause", "rel", "why")
        for number in range(3)
    ]
    with store.store.write() as connection:
        for act in (*acts, acts[1]):
            auditing.add(connection, store.sources.record(act), act)

    def asked(tenant: str = making.TENANT, line: str = "", limit: int = 0) -> list[str]:
        request = ledger.ListAuditRequest(tenant, line, limit)
        return [record.id for record in auditing.listed(store.store, request).records]

    assert asked() == asked(line=making.LINE) == ["a2", "a1", "a0"]
    assert asked(limit=2) == ["a2", "a1"]
    assert asked("globex") == asked(line="sales") == []
