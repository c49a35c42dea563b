"""The ledger as its callers meet it: records in a log, answers over gRPC."""

import asyncio
import itertools
import json
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc.aio
import pytest
from tests.services.ledger.conftest import Service
from tests.unit.ledger import making

import trimtab_client
from trimtab import registry
from trimtab.bus import connect, publish, topics
from trimtab.core import completions, errors, examples, ledger, models, releases, text
from trimtab.ledger import app, servicer, settings
from trimtab.wire import codec, schemas
from trimtabapi.ledger.v1 import ledger_service_pb2 as pb
from trimtabapi.ledger.v1 import ledger_service_pb2_grpc

_Answer = TypeVar("_Answer")
COUNTS = ledger.CountsRequest(making.TENANT, making.LINE)


async def until(ask: Callable[[], Awaitable[_Answer]], good: Callable[[_Answer], bool]) -> _Answer:
    """Asks until the answer is good; the consumer works beside us."""
    async with asyncio.timeout(20):
        async for answer in _answers(ask):
            if good(answer):
                return answer
    raise AssertionError("unreachable")


async def _answers(ask: Callable[[], Awaitable[_Answer]]) -> AsyncIterator[_Answer]:
    for pause in itertools.repeat(0.01):
        yield await ask()
        await asyncio.sleep(pause)


async def put(service: Service, topic: topics.Topic, key: bytes, record: object) -> None:
    await asyncio.wrap_future(publish.publish(service.log, topic, key, record))


async def vote(service: Service) -> completions.Completion:
    """A thumb, and the completion it is about after it."""
    answer = making.completion(exposure=making.exposed())
    thumb = making.thumb(answer, "vote")
    await put(service, topics.FEEDBACK, answer.context.session_hash, thumb)
    await until(lambda: service.calls.counts(COUNTS), lambda counts: counts.waiting == 1)
    await put(service, topics.COMPLETIONS, answer.context.session_hash, answer)
    await until(lambda: service.calls.counts(COUNTS), lambda counts: counts.joined == 1)
    return answer


async def test_a_vote_that_came_first_is_joined_traced_and_published(service: Service) -> None:
    answer = await vote(service)
    chain = await service.calls.trace(ledger.TraceRequest(making.TENANT, "vote"))
    assert chain.completions == (answer,)
    [example] = chain.examples
    source = {topics.EXAMPLES.name: example.partition}
    await until(
        lambda: asyncio.to_thread(service.log.end_offsets, topics.EXAMPLES.name), lambda ends: sum(ends.values()) == 1
    )
    reader = service.log.reader(dict.fromkeys(service.log.end_offsets(topics.EXAMPLES.name), 0))
    [record] = reader.poll(10, 1.0)
    reader.close()
    assert {record.topic: record.partition} == source
    assert schemas.decode(record.value, record.headers, examples.Example) == example
    assert record.key == answer.context.session_hash


async def test_evidence_travels_whole(service: Service) -> None:
    await vote(service)
    found = await service.calls.evidence(ledger.EvidenceRequest(making.TENANT, "rel", 60.0))
    [session] = found.sessions
    assert (session.outcome, session.votes, session.mature, session.propensity) == (1.0, 1, True, 0.5)
    assert [(total.completions, total.vote_sum, total.mean_latency_s) for total in found.totals] == [(1, 1.0, 0.5)]


async def test_evidence_of_many_sessions_travels_in_parts(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servicer, "_SESSIONS_OF_A_PART", 2)
    for number in range(5):
        answer = making.completion(f"s{number}", created=float(number), exposure=making.exposed())
        await put(service, topics.COMPLETIONS, answer.context.session_hash, answer)
    asked = ledger.EvidenceRequest(making.TENANT, "rel", 60.0)
    found = await until(lambda: service.calls.evidence(asked), lambda found: len(found.sessions) == 5)
    parts = [part async for part in service.stub.Evidence(codec.to_proto(asked, pb.EvidenceRequest))]
    assert [(len(part.sessions), len(part.totals), bool(part.consumed)) for part in parts] == [
        (2, 1, True), (2, 0, False), (1, 0, False),
    ]  # fmt: skip
    assert [session.exposed_at for session in found.sessions] == sorted(one.exposed_at for one in found.sessions)
    assert sum(found.consumed.values()) == 5


async def test_a_published_data_set_links_examples_with_the_models_made_from_it(
    service: Service, tmp_path: pathlib.Path
) -> None:
    await vote(service)
    [example] = (await service.calls.trace(ledger.TraceRequest(making.TENANT, "vote"))).examples
    dataset = publish_dataset(service.registry, tmp_path / "set", example.id)
    context = text.Context(making.TENANT, making.LINE)
    data = models.PublishedModel(dataset.id, context, models.ModelKind.DATASET, making.NOW)
    reward = models.PublishedModel("r" * 64, context, models.ModelKind.REWARD, making.NOW, datasets=(dataset.id,))
    release = releases.Release(
        "rel", context, 1, reward.id, "", "", releases.ReleaseState.PENDING, b"salt", created_at=making.NOW
    )
    for model in (data, reward):
        await put(service, topics.MODELS, model.id.encode(), model)
    await put(service, topics.ROLLOUTS, release.id.encode(), release)
    chain = await until(
        lambda: service.calls.trace(ledger.TraceRequest(making.TENANT, example.id)), lambda chain: bool(chain.releases)
    )
    assert chain.datasets == (ledger.DatasetMembership(example.id, dataset.id, "trained"),)
    assert (chain.models, chain.releases) == ((data, reward), (release,))
    lineage = await service.calls.lineage(ledger.LineageRequest(making.TENANT, reward.id))
    assert (lineage.ancestors, lineage.trained_examples) == ((data,), 1)
    assert (await service.calls.counts(COUNTS)).dispositions == {"trained": 1}


def publish_dataset(artifacts: registry.Registry, folder: pathlib.Path, example_id: str) -> registry.Manifest:
    folder.mkdir()
    (folder / "members.jsonl").write_text(json.dumps({"example_id": example_id, "disposition": "trained"}) + "\n")
    (folder / "examples.jsonl").write_text("")
    (folder / "card.json").write_text("{}")
    draft = registry.ManifestDraft(kind=models.ModelKind.DATASET, tenant=making.TENANT, line=making.LINE)
    return artifacts.publish(folder, draft)


async def test_what_is_not_there_is_said_to_be_not_there(service: Service) -> None:
    with pytest.raises(errors.NotFound, match="'nothing'"):
        await service.calls.trace(ledger.TraceRequest(making.TENANT, "nothing"))
    with pytest.raises(errors.NotFound, match="'nothing'"):
        await service.calls.lineage(ledger.LineageRequest(making.TENANT, "nothing"))


async def test_leases_are_granted_refused_and_given_back(service: Service) -> None:
    def asked(holder: str) -> Awaitable[ledger.AcquireLeaseResponse]:
        return service.calls.acquire_lease(ledger.AcquireLeaseRequest("line", holder, 60.0))

    assert await asked("a") == ledger.AcquireLeaseResponse(True, 1, "a")
    assert await asked("b") == ledger.AcquireLeaseResponse(False, 1, "a")
    await service.calls.release_lease(ledger.ReleaseLeaseRequest("line", "a"))
    assert await asked("b") == ledger.AcquireLeaseResponse(True, 2, "b")


async def test_later_methods_say_that_they_are_not_built_yet(service: Service) -> None:
    later: list[tuple[Any, Any]] = [
        (service.stub.ListTasks, pb.ListTasksRequest()),
        (service.stub.Erase, pb.EraseRequest()),
    ]
    for method, request in later:
        with pytest.raises(grpc.aio.AioRpcError, match="not built yet") as refused:
            await method(request)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_it_serves_only_once_it_knows_what_stood_in_the_log(settings_of: dict[str, Any]) -> None:
    log = connect.open_log(settings_of["log_url"])
    for number in range(300):
        answer = making.completion(f"s{number}")
        key = answer.context.session_hash
        publish.publish(log, topics.COMPLETIONS, key, answer)
        last = publish.publish(log, topics.FEEDBACK, key, making.thumb(answer))
    await asyncio.wrap_future(last)
    log.close()
    made = app.build(settings.LedgerSettings(**settings_of))
    async with made.serving() as address, trimtab_client.connect(address, made.secrets.internal_token) as channel:
        stub = ledger_service_pb2_grpc.LedgerServiceStub(channel)
        asked = pb.CountsRequest(tenant=making.TENANT, line=making.LINE)
        counts = await stub.Counts(asked, wait_for_ready=True, timeout=30)
    assert (counts.joined, counts.waiting) == (300, 0)
