"""A platform around the rollout controller: the real log, ledger, registry and supervisor, and policy processes that
describe themselves. Users are records of completions and thumbs, routed like the gateway routes.
"""

import asyncio
import contextlib
import datetime
import json
import os
import pathlib
import random
import shlex
import shutil
import sys
import threading
import types
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests import timing

import trimtab_client
from trimtab import registry
from trimtab.bus import port, publish, topics
from trimtab.bus.sqlite import SqliteLog
from trimtab.cli.machine import supervisor
from trimtab.core import audit, clock, completions, feedback, ids, models, releases, text
from trimtab.ledger import app as ledger_app
from trimtab.ledger import settings as ledger_settings
from trimtab.rollout import app, backend, local, processes
from trimtab.rollout import settings as rollout_settings
from trimtab.rpc import secrets
from trimtab.wire import calls, schemas

TENANT, LINE = "acme", "support"
State = releases.ReleaseState
LINES = f"""
[lines.{LINE}]
tenant = "{TENANT}"
[lines.{LINE}.release]
minimum_sessions = 20
maximum_sessions = 300
safety_weight = 0.2
safety_completions = 4
maturity_s = 1.0
"""


class Platform:
    """Paths, the log, and what tests do to them. `rollout` runs the controller inside the test's event loop."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.state = folder / "state"
        self.state.mkdir()
        self.lines_file = folder / "lines.toml"
        self.lines_file.write_text(LINES)
        self.secrets_file = folder / "secrets.toml"
        secrets.create(self.secrets_file, TENANT)
        known = secrets.load(self.secrets_file)
        self.token = known.internal_token
        self._keys = known.signing
        self.log_url = f"sqlite://{folder / 'log.db'}"
        self.log = SqliteLog(folder / "log.db")
        self.registry_url = f"file://{folder / 'registry'}"
        self.cache = folder / "cache"
        self.cache.mkdir()
        self.artifacts = registry.Registry(self.registry_url, self.cache)
        self.table = processes.Table(self.state)
        self.ledger_address = ""
        self.reward_address = ""
        self._folder = folder
        self._votes = random.Random(7)
        self._claims = folder / "claims"
        self._claims.mkdir()

    @property
    def shared(self) -> dict[str, object]:
        return {
            "log_url": self.log_url,
            "registry_url": self.registry_url,
            "cache": self.cache,
            "lines_file": self.lines_file,
            "secrets_file": self.secrets_file,
            "drain_s": 2.0,
            "log_level": "warning",
        }

    def rollout_settings(self) -> rollout_settings.RolloutSettings:
        policy = pathlib.Path(__file__).with_name("describing_policy.py")
        command = (sys.executable, str(policy), str(self._claims), backend.POLICY, processes.ADDRESS)
        return rollout_settings.RolloutSettings(
            **self.shared,
            ledger_address=self.ledger_address,
            reward_address=self.reward_address,
            state=self.state,
            policy_command=shlex.join(command),
            look_every_s=0.1,
            lease_s=2.0,
        )

    @contextlib.asynccontextmanager
    async def rollout(self) -> AsyncIterator[calls.RolloutCalls]:
        built = app.build(self.rollout_settings())
        async with built.serving() as address, self.calls_to(address) as rollout:
            yield rollout

    @contextlib.asynccontextmanager
    async def calls_to(self, address: str) -> AsyncIterator[calls.RolloutCalls]:
        """Calls to the controller at an address, once it serves."""
        await _serving(address)
        channel = trimtab_client.connect(address, self.token)
        yield calls.RolloutCalls(channel)
        await channel.close()

    @contextlib.asynccontextmanager
    async def ledger_calls(self) -> AsyncIterator[calls.LedgerCalls]:
        channel = trimtab_client.connect(self.ledger_address, self.token)
        yield calls.LedgerCalls(channel)
        await channel.close()

    def publish_model(
        self,
        name: str,
        *,
        kind: models.ModelKind = models.ModelKind.POLICY,
        gates: tuple[models.GateFigure, ...] = (),
        announce: bool = True,
        lies: bool = False,
        crashes: bool = False,
        weights: pathlib.Path | None = None,
        **origin: Any,
    ) -> str:
        """A published model; its process may claim to have loaded other bytes, or crash.

        origin: its parents, datasets and method; files: what stands in its folder; weights: a folder to begin with.
        """
        folder = self._folder / name
        if weights is None:
            folder.mkdir()
        else:
            shutil.copytree(weights, folder)
        named = {} if weights else {"config.json": f'"{name}"'}
        for path, content in (named | origin.pop("files", {})).items():
            (folder / path).write_text(content)
        passed = all(gate.passed for gate in gates)
        draft = registry.ManifestDraft(kind=kind, tenant=TENANT, line=LINE, gates=gates, passed=passed, **origin)
        manifest = self.artifacts.publish(folder, draft)
        claim = None if crashes else "0" * 64 if lies else manifest.loaded_digest
        (self._claims / f"{manifest.id}.json").write_text(json.dumps(claim))
        if announce:
            record = models.PublishedModel(
                manifest.id,
                text.Context(TENANT, LINE),
                kind,
                clock.utc_now(),
                gates=gates,
                passed=passed,
                **origin,
            )
            publish.publish(self.log, topics.MODELS, manifest.id.encode(), record).result()
        return manifest.id

    def visit(
        self,
        release: releases.Release,
        approval: dict[str, float],
        sessions: int,
        says: Mapping[str, str] = types.MappingProxyType({}),
        *,
        raters: int = 0,
    ) -> None:
        """Users of their own session each, a little ago, routed by the release and voting by policy approval.

        Each arm has its share of them to one, and they vote the same in every run, whatever the release's salt.

        says: what a policy answers; "there" when it is not named.
        raters: so many people by turns, all from one network; 0: nobody says who.
        """
        weight = next((arm.weight for arm in release.arms if arm.arm is completions.Arm.CANDIDATE), 0.0)
        by_arm = {arm.arm: arm.policy_id for arm in release.arms}
        records = []
        for number in range(sessions):
            rater = feedback.Rater(id=f"{number % raters:032x}", network="f" * 32) if raters else feedback.Rater()
            due = int((number + 1) * weight + 1e-9) > int(number * weight + 1e-9)
            arm = completions.Arm.CANDIDATE if due else completions.Arm.STABLE
            session = self._session(release.salt, weight, arm)
            exposure = completions.Exposure(
                release.id,
                release.state.value,
                arm,
                weight if arm is completions.Arm.CANDIDATE else 1 - weight,
                0 < weight < 1,
            )
            up = self._votes.random() < approval[by_arm[arm]]
            token = ids.CompletionToken(ids.uuid7(), session, ids.release_tag(release.id), arm, exposure.randomised)
            completion_id = ids.mint(token, TENANT, self._keys)
            said = says.get(by_arm[arm], "there")
            records += _visit(completion_id, session, exposure, by_arm[arm], said=said, up=up, rater=rater)
        self.log.append(records).result()

    @staticmethod
    def _session(salt: bytes, weight: float, arm: completions.Arm) -> bytes:
        """A session that the release's salt gives to an arm."""
        while ids.arm_of(salt, session := os.urandom(16), weight) is not arm:
            pass
        return session

    def records(self) -> list[releases.Release]:
        return [schemas.decode(r.value, r.headers, releases.Release) for r in self.read(topics.ROLLOUTS)]

    def head(self) -> releases.Release:
        return max(self.records(), key=lambda release: release.revision)

    def audited(self) -> list[audit.AuditRecord]:
        return [schemas.decode(r.value, r.headers, audit.AuditRecord) for r in self.read(topics.AUDIT)]

    def read(self, topic: topics.Topic) -> list[port.Record]:
        with contextlib.closing(
            self.log.reader({port.TopicPartition(topic.name, place): 0 for place in range(topic.partitions)})
        ) as reader:
            found: list[port.Record] = []
            while records := reader.poll(500, 0.0):
                found += records
            return found

    async def until(self, promise: Callable[[], object], seconds: float = timing.PATIENCE_S) -> None:
        """Returns once the promise holds; looks twenty times a second, without blocking what it waits for."""
        for _ in range(int(seconds * 20)):
            if await asyncio.to_thread(promise):
                return
            await asyncio.sleep(0.05)
        raise AssertionError("it did not happen in time; the releases: " + "; ".join(map(_short, self.records())))

    async def reach(self, model_id: str, *states: State, seconds: float = timing.PATIENCE_S) -> releases.Release:
        """The newest record of the newest release of a model, once it is in one of these states."""

        def there() -> bool:
            found[:] = [record for record in self.records() if record.candidate_id == model_id]
            return bool(found) and found[-1].state in states

        found: list[releases.Release] = []
        await self.until(there, seconds)
        return found[-1]

    def running(self, model_id: str) -> bool:
        row = self.table.get(local.process_name(model_id))
        return row is not None and row.status is processes.Status.RUNNING


async def _serving(address: str) -> None:
    """Returns once the process at the address reports SERVING."""
    async with grpc.aio.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest()
        watch = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=timing.PATIENCE_S, wait_for_ready=True)
        async for answer in watch:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return


def _short(release: releases.Release) -> str:
    return f"{release.revision} {release.candidate_id[:6]} {release.state}"


def _visit(
    completion_id: str,
    session: bytes,
    exposure: completions.Exposure,
    policy_id: str,
    *,
    said: str,
    up: bool,
    rater: feedback.Rater,
) -> list[port.NewRecord]:
    when = clock.utc_now() - datetime.timedelta(seconds=5)
    context = text.Context(TENANT, LINE, session_hash=session)
    completion = completions.Completion(
        id=completion_id,
        context=context,
        created_at=when,
        prompt=(text.Message(text.Role.USER, text.Text("where is it?")),),
        responses=(completions.Response(0, text.Text(said)),),
        origin=completions.Origin.SERVED,
        policy_id=policy_id,
        exposure=exposure,
        latency_s=0.5,
        measured=completions.Measured(tokens=20.0),
        segment="mobile" if session[0] % 2 else "",
    )
    thumb = feedback.FeedbackEvent(
        id=str(ids.uuid7()),
        occurred_at=when + datetime.timedelta(milliseconds=100),
        kind=feedback.Thumb(text.ResponseRef(completion.id), up),
        context=context,
        rater=rater,
        verified=True,
    )
    return [
        publish.new_record(topics.COMPLETIONS, session, completion),
        publish.new_record(topics.FEEDBACK, session, thumb),
    ]


@contextlib.contextmanager
def supervising(folder: pathlib.Path) -> Iterator[Platform]:
    """A platform in a folder whose supervisor runs, without a ledger."""
    one = Platform(folder)
    stop = threading.Event()
    thread = threading.Thread(target=supervisor.Supervisor(one.state, drain_s=3.0).run, args=(stop,))
    thread.start()
    try:
        yield one
    finally:
        stop.set()
        thread.join(timing.PATIENCE_S)
        one.log.close()


@contextlib.asynccontextmanager
async def with_ledger(one: Platform) -> AsyncIterator[Platform]:
    database = f"sqlite:///{one.state / 'ledger.db'}"
    config = ledger_settings.LedgerSettings(**one.shared, database=database)
    async with ledger_app.build(config).serving() as address:
        one.ledger_address = address
        await _serving(address)
        yield one


@pytest.fixture
def supervised(tmp_path: pathlib.Path) -> Iterator[Platform]:
    with supervising(tmp_path) as one:
        yield one


@pytest.fixture
async def platform(supervised: Platform) -> AsyncIterator[Platform]:
    async with with_ledger(supervised) as one:
        yield one
