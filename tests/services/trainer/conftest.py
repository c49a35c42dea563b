"""A real installation for the trainer: log, registry, lines and secrets on disk; a ledger that leases and counts."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import datetime
import pathlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeVar

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tests import timing

import trimtab_client
from trimtab import registry
from trimtab.bus import connect, port, publish, topics
from trimtab.core import completions, examples, models, releases, text
from trimtab.rpc import secrets
from trimtab.trainer import app, settings
from trimtab.trainer.data import datasets, store
from trimtab.wire import calls, schemas
from trimtabapi.ledger.v1 import ledger_service_pb2, ledger_service_pb2_grpc

_T = TypeVar("_T")
TENANT, LINE = "acme", "support"
AT = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
QUESTIONS = [f"where is setting {number}" for number in range(24)]


class Ledger(ledger_service_pb2_grpc.LedgerServiceServicer):
    """What the trainer asks of the ledger: leases, one holder at a time, and how many examples a line has.

    growth: so many more whenever somebody has asked.
    """

    def __init__(self) -> None:
        self.held: dict[str, tuple[str, int]] = {}
        self.examples = self.growth = 0

    def Counts(
        self, request: ledger_service_pb2.CountsRequest, context: grpc.ServicerContext
    ) -> ledger_service_pb2.CountsResponse:
        counted = self.examples
        self.examples += self.growth
        return ledger_service_pb2.CountsResponse(examples=counted)

    def AcquireLease(
        self, request: ledger_service_pb2.AcquireLeaseRequest, context: grpc.ServicerContext
    ) -> ledger_service_pb2.AcquireLeaseResponse:
        holder, generation = self.held.setdefault(request.name, (request.holder, 1))
        return ledger_service_pb2.AcquireLeaseResponse(
            held=holder == request.holder, generation=generation, holder=holder
        )


@dataclasses.dataclass
class Installation:
    """What a trainer is pointed at. `policy_id` and `demonstrations_id` are published.

    job_processes, jobs_elsewhere: its settings.
    """

    folder: pathlib.Path
    ledger: Ledger
    ledger_address: str
    policy_id: str = ""
    demonstrations_id: str = ""
    job_processes: int = 1
    jobs_elsewhere: bool = False

    @property
    def log_url(self) -> str:
        return f"sqlite://{self.folder}/log.db"

    @property
    def registry(self) -> registry.Registry:
        return registry.Registry(f"file://{self.folder}/registry", self.folder / "cache")

    @property
    def token(self) -> str:
        return secrets.load(self.folder / "secrets.toml").internal_token

    def flags(self) -> dict[str, str]:
        return {
            "log_url": self.log_url,
            "registry_url": f"file://{self.folder}/registry",
            "cache": f"{self.folder}/cache",
            "lines_file": f"{self.folder}/lines.toml",
            "secrets_file": f"{self.folder}/secrets.toml",
            "state": f"{self.folder}/trainer",
            "ledger_address": self.ledger_address,
            "drain_s": "1",
            "job_processes": str(self.job_processes),
        }

    def settings(self) -> settings.TrainerSettings:
        return settings.TrainerSettings.model_validate({**self.flags(), "jobs_elsewhere": self.jobs_elsewhere})

    def argv(self) -> list[str]:
        given = [part for name, value in self.flags().items() for part in (f"--{name.replace('_', '-')}", value)]
        return [*given, "--jobs-elsewhere"] if self.jobs_elsewhere else given

    @contextlib.asynccontextmanager
    async def trainer(self) -> AsyncIterator[calls.TrainerCalls]:
        """The trainer in this process, and calls to it over the loopback."""
        process = app.build(self.settings())
        async with process.serving() as address, trimtab_client.connect(address, self.token) as channel:
            await asyncio.wait_for(channel.channel_ready(), 30)
            yield calls.TrainerCalls(channel)

    def published(self) -> list[models.PublishedModel]:
        """Every record on topic `models`, repeats included."""
        return [schemas.decode(one.value, one.headers, models.PublishedModel) for one in self.records(topics.MODELS)]

    def records(self, topic: topics.Topic) -> list[port.Record]:
        log = connect.open_log(self.log_url)
        reader = log.reader({port.TopicPartition(topic.name, place): 0 for place in range(topic.partitions)})
        try:
            ends = sum(log.end_offsets(topic.name).values())
            found: list[port.Record] = []
            while len(found) < ends:
                found += reader.poll(1000, 5.0)
            return found
        finally:
            reader.close()
            log.close()

    def put(self, topic: topics.Topic, records: list[tuple[bytes, object]]) -> None:
        log = connect.open_log(self.log_url)
        try:
            for key, record in records:
                publish.publish(log, topic, key, record).result(10)
        finally:
            log.close()

    def adopt(self, policy_id: str) -> None:
        """The rollout controller's word that the line is anchored to this policy."""
        release = releases.Release(
            id="release-1",
            context=text.Context(TENANT, LINE),
            revision=1,
            candidate_id=policy_id,
            stable_id=policy_id,
            anchor_id=policy_id,
            state=releases.ReleaseState.PROMOTED,
            salt=b"salt",
            created_at=AT,
            arms=(releases.ArmTarget(completions.Arm.STABLE, policy_id, weight=1.0),),
        )
        self.put(topics.ROLLOUTS, [(b"release-1", release)])


def example(number: int, kind: examples.Kind | None, **changes: object) -> examples.Example:
    """An example about question `number`, by a rater of its own."""
    base = examples.Example(
        id=f"example-{number:04}",
        context=text.Context(TENANT, LINE, session_hash=number.to_bytes(16, "big")),
        partition=number % 4,
        sequence=number,
        revision=1,
        fold=number % 10,
        occurred_at=AT,
        feedback_id=f"feedback-{number}",
        kind=kind,
        prompt=(text.Message(text.Role.USER, text.Text(QUESTIONS[number % len(QUESTIONS)])),),
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def received(one: examples.Example) -> store.Received:
    """As the consumer has it from the log."""
    value, headers = schemas.encode(one)
    return store.Received(one, value, headers[schemas.SCHEMA_HEADER])


async def until(ask: Callable[[], Awaitable[_T]], seconds: float = 60) -> _T:
    """The first answer that is not empty."""
    async with asyncio.timeout(seconds):
        while True:
            if answer := await ask():
                return answer
            await asyncio.sleep(0.05)


def lines_toml(trigger: int = 0, training: str = "") -> str:
    return f"""
[lines.{LINE}]
tenant = "{TENANT}"
[lines.{LINE}.trigger]
examples = {trigger}
{training}
"""


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A very small untrained policy on disk."""
    import torch

    from trimtab.modeling import loading, tiny

    torch.set_num_threads(1)
    tokenizer = tiny.train_bpe([*QUESTIONS, "open the menu and look there"], 300)
    model = tiny.tiny_llama(len(tokenizer), 1, hidden=16, layers=1, heads=2, intermediate=32, context=64)
    folder = tmp_path_factory.mktemp("tiny") / "policy"
    loading.save_policy(model, tokenizer, loading.ServingProfile(max_tokens=8), folder)
    return folder


@pytest.fixture
def bare(tmp_path: pathlib.Path) -> Iterator[Installation]:
    """An installation without models."""
    ledger = Ledger()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server(ledger, server)
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    secrets.create(tmp_path / "secrets.toml", TENANT)
    (tmp_path / "lines.toml").write_text(lines_toml())
    yield Installation(tmp_path, ledger, address)
    stopped: threading.Event = server.stop(0)
    stopped.wait(timing.PATIENCE_S)


@pytest.fixture
def installation(bare: Installation, tiny_policy: pathlib.Path) -> Installation:
    """An installation with a policy and demonstrations to train it on."""
    draft = registry.ManifestDraft(kind=models.ModelKind.POLICY, tenant=TENANT, line=LINE, method="tiny")
    bare.policy_id = bare.registry.publish(tiny_policy, draft).id
    file = bare.folder / "demonstrations.jsonl"
    rows = (f'{{"prompt": "{question}", "response": "open the menu and look there"}}' for question in QUESTIONS)
    file.write_text("\n".join(rows))
    bare.demonstrations_id = datasets.publish_file(bare.registry, file, TENANT, LINE).id
    return bare
