"""From any id of a chain the whole chain is found, by its tenant only."""

import json
import pathlib
from collections.abc import Iterator, Sequence

import pytest
from tests.postgres.stores import Stores
from tests.unit.ledger import making

from trimtab.bus import runner
from trimtab.core import completions, errors, ids, ledger, models, releases, text
from trimtab.ledger import consumer, counting, tracing

CONTEXT = text.Context(making.TENANT, making.LINE)


class Folders:
    """Artifacts as folders on this disk."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root

    def fetch(self, model_id: str) -> pathlib.Path:
        if not (self.root / model_id).exists():
            raise errors.NotFound("model", model_id)
        return self.root / model_id

    def write(self, model_id: str, members: Sequence[tuple[str, str, str]]) -> None:
        (self.root / model_id).mkdir()
        names = ("example_id", "disposition", "reason")
        lines = [json.dumps(dict(zip(names, member, strict=True))) for member in members]
        (self.root / model_id / "members.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def folders(tmp_path: pathlib.Path) -> Folders:
    return Folders(tmp_path)


@pytest.fixture
def store(stores: Stores, folders: Folders) -> Iterator[making.Ledger]:
    with making.ledger(stores.url(), folders) as made:
        yield made


def published(
    name: str, kind: models.ModelKind, *, parents: Sequence[str] = (), datasets: Sequence[str] = (), after: float = 0
) -> models.PublishedModel:
    return models.PublishedModel(
        name, CONTEXT, kind, making.at(after), parents=tuple(parents), datasets=tuple(datasets), method="m"
    )


def release(name: str, candidate: str) -> releases.Release:
    state = releases.ReleaseState.SAFETY
    return releases.Release(name, CONTEXT, 1, candidate, "base", "base", state, b"salt", making.NOW)


def chain(store: making.Ledger, folders: Folders) -> tuple[completions.Completion, str]:
    """A thumb, its data set, the reward model and the policy made from it, and the policy's release."""
    answer = making.completion()
    ledger_before = making.thumb(answer, "vote")
    store.take(answer, ledger_before)
    [example_id] = store.newest()
    folders.write("data", [(example_id, "trained", ""), ("elsewhere", "rejected", "too long")])
    store.take(published("base", models.ModelKind.BASE), published("data", models.ModelKind.DATASET, after=1))
    # published in the same moment: only the parents tell the order
    store.take(published("a-policy", models.ModelKind.POLICY, parents=["base", "reward"], after=2))
    store.take(published("reward", models.ModelKind.REWARD, parents=["base"], datasets=["data"], after=2))
    store.take(release("rel", "a-policy"), release("unrelated", "base"))
    return answer, example_id


def trace(store: making.Ledger, name: str, tenant: str = making.TENANT) -> ledger.TraceResponse:
    return tracing.trace(store.store, ledger.TraceRequest(tenant, name))


def test_every_id_of_a_chain_leads_to_all_of_it(store: making.Ledger, folders: Folders) -> None:
    answer, example_id = chain(store, folders)
    found = trace(store, answer.id)
    assert found.completions == (answer,)
    assert [(item.event.id, item.status.value) for item in found.feedback] == [("vote", "joined")]
    assert [example.id for example in found.examples] == [example_id]
    assert found.datasets == (ledger.DatasetMembership(example_id, "data", "trained"),)
    assert [model.id for model in found.models] == ["data", "reward", "a-policy"]
    assert [item.id for item in found.releases] == ["rel"]
    assert trace(store, "vote") == trace(store, example_id) == found
    assert trace(store, str(ids.uuid_of(answer.id))) == found


def test_conflicts_copies_and_superseded_votes_are_shown(store: making.Ledger) -> None:
    answer = making.completion()
    store.take(answer, making.thumb(answer, "one"), making.thumb(answer, "one"), making.thumb(answer, "one", up=False))
    store.take(making.thumb(answer, "two", up=False, occurred=3.0))
    found = [(item.event.id, item.status.value, item.copies) for item in trace(store, "two").feedback]
    assert found == [("one", "superseded", 1), ("two", "joined", 0)]
    found = [(item.event.id, item.status.value, item.copies) for item in trace(store, answer.id).feedback]
    assert found == [("one", "superseded", 1), ("one", "conflict", 0), ("two", "joined", 0)]


def test_feedback_that_waits_is_found_and_says_so(store: making.Ledger) -> None:
    answer = making.completion()
    store.take(making.thumb(answer))
    [waiting] = trace(store, answer.id).feedback
    assert (waiting.status.value, waiting.reason) == ("waiting", "completion has not arrived")


def test_a_foreign_tenant_finds_nothing(store: making.Ledger, folders: Folders) -> None:
    answer, example_id = chain(store, folders)
    for name in (answer.id, "vote", example_id, "nothing", str(ids.uuid_of(answer.id))):
        with pytest.raises(errors.NotFound):
            trace(store, name, tenant="other")
    with pytest.raises(errors.NotFound):
        tracing.trace_model(store.store, ledger.LineageRequest("other", "reward"))


def test_lineage_goes_both_ways_with_parents_first(store: making.Ledger, folders: Folders) -> None:
    chain(store, folders)
    found = tracing.trace_model(store.store, ledger.LineageRequest(making.TENANT, "reward"))
    assert [model.id for model in found.ancestors] == ["base", "data"]
    assert [model.id for model in found.descendants] == ["a-policy"]
    assert (found.releases, found.trained_examples) == ((), 1)
    found = tracing.trace_model(store.store, ledger.LineageRequest(making.TENANT, "a-policy"))
    assert [model.id for model in found.ancestors] == ["base", "data", "reward"]
    assert [item.id for item in found.releases] == ["rel"]


def test_an_example_counts_where_it_was_used_last(store: making.Ledger, folders: Folders) -> None:
    folders.write("first", [("e1", "trained", ""), ("e2", "held out", "")])
    folders.write("second", [("e1", "rejected", "over the rater's share")])
    store.take(published("first", models.ModelKind.DATASET), published("second", models.ModelKind.DATASET))
    found = counting.counts(store.store, ledger.CountsRequest(making.TENANT, making.LINE))
    assert found.dispositions == {"rejected": 1, "held out": 1}


def test_a_data_set_that_cannot_be_read_is_tried_again_and_then_given_up(store: making.Ledger) -> None:
    missing = published("missing", models.ModelKind.DATASET)
    for _ in range(consumer.ATTEMPTS - 1):
        with pytest.raises(runner.NotNow, match="missing"):
            store.take(missing)
    with pytest.raises(runner.Never, match="There is no model 'missing'"):
        store.take(missing)


def test_a_newer_record_of_a_release_takes_the_older_ones_place(store: making.Ledger) -> None:
    store.take(published("base", models.ModelKind.BASE), release("rel", "base"), release("rel", "base"))
    found = tracing.trace_model(store.store, ledger.LineageRequest(making.TENANT, "base"))
    assert [item.id for item in found.releases] == ["rel"]
