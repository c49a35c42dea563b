"""A rollout controller killed anywhere ends its release as one release; a supervisor, with one process per row."""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator

import pytest
from tests import timing
from tests.faults import killing

from trimtab import registry
from trimtab.bus import port, topics
from trimtab.bus.sqlite import SqliteLog
from trimtab.cli.machine import supervisor
from trimtab.core import audit, clock, completions, control, ledger, lines, models, releases
from trimtab.rollout import backend, controller, desk, line, local, operations, processes, shelf, steps
from trimtab.wire import schemas

WALKED = [*killing.under("rollout.", "processes.", "supervisor.", "trail.")]
TENANT, LINE = "acme", "support"
CONFIG = lines.LineConfig(LINE, TENANT, release=lines.ReleaseConfig(minimum_sessions=20, safety_completions=4))
State = releases.ReleaseState


class Ledger:
    """Grants the lease, under a new generation to each process, and has seen the candidate's users content, or not."""

    def __init__(self, folder: pathlib.Path, content: bool = True) -> None:
        lives = folder / "lives"
        lives.write_text(f"{lives.read_text() if lives.exists() else ''}.")
        self._generation = len(lives.read_text())
        self._content = content

    async def acquire_lease(
        self, request: ledger.AcquireLeaseRequest, *, timeout_s: float = 0
    ) -> ledger.AcquireLeaseResponse:
        return ledger.AcquireLeaseResponse(True, self._generation, request.holder)

    async def release_lease(self, request: ledger.ReleaseLeaseRequest, *, timeout_s: float = 0) -> None:
        pass

    async def evidence(self, request: ledger.EvidenceRequest, *, timeout_s: float = 0) -> ledger.EvidenceResponse:
        arms = (line.STABLE, line.CANDIDATE)
        sessions = tuple(
            ledger.SessionOutcome(
                arms[number % 2],
                0.5,
                clock.utc_now(),
                1,
                True,
                float(number % 2 == self._content),
                first=ledger.FirstAnswer(0.5, 20.0, 0.0, 0.0, failed=False),
            )
            for number in range(200)
        )
        return ledger.EvidenceResponse(sessions, tuple(ledger.ArmTotals(arm, 99, 0, 0, 0, 0.0) for arm in arms))


def publish_policies(folder: pathlib.Path) -> None:
    artifacts = registry.Registry(f"file://{folder}/registry", folder / "cache")
    for name in ("old", "new", "newer", "data", "reward", "bad"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(f'"{name}"')
        kind = {"data": models.ModelKind.DATASET, "reward": models.ModelKind.REWARD}.get(name, models.ModelKind.POLICY)
        draft = registry.ManifestDraft(kind=kind, tenant=TENANT, line=LINE, method="cut" if name == "data" else "")
        if name == "bad":
            parents, datasets = ((policy_id(folder, source),) for source in ("reward", "data"))
            draft = dataclasses.replace(draft, parents=parents, datasets=datasets)
        (folder / f"{name}.id").write_text(artifacts.publish(folder / name, draft).id)


def policy_id(folder: pathlib.Path, name: str) -> str:
    return (folder / f"{name}.id").read_text()


def control_line(folder: pathlib.Path) -> None:
    """A controller that adopts "old", releases "new" and then "newer", until "old" need not run any more.

    Its policies are well: what the supervisor and they themselves would say is said here.
    """
    steps.SETTLE_S = 0.0
    asyncio.run(_control(folder))


@dataclasses.dataclass
class Office:
    """A controller and its verbs over the folder, without processes."""

    desk: desk.Desk
    loop: controller.Controller
    acts: operations.Operations
    machine: local.LocalBackend

    async def look(self) -> None:
        """One look, with every wanted process up."""
        for row in self.machine._table.rows():
            self.machine._table.observe(row.name, processes.Status.RUNNING if row.wanted else processes.Status.STOPPED)
        await self.loop.look()


@contextlib.asynccontextmanager
async def _open(folder: pathlib.Path, content: bool = True) -> AsyncIterator[Office]:
    log, world = SqliteLog(folder / "log.db"), Ledger(folder, content)
    artifacts = registry.Registry(f"file://{folder}/registry", folder / "cache")
    machine = local.LocalBackend(folder / "state", ("policy", backend.POLICY, processes.ADDRESS), {})
    known = shelf.Shelf(artifacts)
    office = desk.Desk(log, desk.Lease(world, "me", 60.0), clock.utc_now, "")

    async def describe(address: str) -> completions.DescribeResponse | None:
        row = next(row for row in machine._table.rows() if row.address == address)
        return completions.DescribeResponse(row.argv[1], artifacts.manifest(row.argv[1]).loaded_digest, "none", 1)

    loop = controller.Controller(
        office=office,
        configured={LINE: CONFIG},
        shelf=known,
        processes=machine,
        evidence=world,
        describe=describe,
        look_every_s=0.0,
    )
    await office.lease.renew()
    await office.look()
    yield Office(office, loop, operations.Operations(office, {LINE: CONFIG}, known.find), machine)
    log.close()


async def _control(folder: pathlib.Path) -> None:
    policies = [policy_id(folder, name) for name in ("old", "new", "newer")]
    deadline = time.monotonic() + timing.PATIENCE_S
    async with _open(folder) as office:
        rows = office.machine._table.rows()
        while True:
            assert time.monotonic() < deadline
            known_releases = [office.desk.line(TENANT, LINE).of_model(policy) for policy in policies]
            if len(rows) == 3 and not rows[0].wanted and known_releases[2][0].state is State.PROMOTED:
                break
            if not known_releases[0]:
                await office.acts.adopt(control.AdoptRequest(TENANT, LINE, policies[0], "ann", "first"))
            for policy, before, own in zip(policies[1:], known_releases, known_releases[1:], strict=False):
                if before and before[0].state is State.PROMOTED and not own:
                    await office.acts.start_release(control.StartReleaseRequest(TENANT, LINE, policy, "ann"))
            await office.look()
            rows = office.machine._table.rows()


def roll_back(folder: pathlib.Path) -> None:
    """A controller under which "bad" ends worse; the operator lets go of its quarantine, with the same request at
    every try."""
    steps.SETTLE_S = 0.0
    asyncio.run(_roll_back(folder))


async def _roll_back(folder: pathlib.Path) -> None:
    old, bad = policy_id(folder, "old"), policy_id(folder, "bad")
    deadline = time.monotonic() + timing.PATIENCE_S
    async with _open(folder, content=False) as office:
        await office.acts.adopt(control.AdoptRequest(TENANT, LINE, old, "ann", "first", "request-1"))
        while not office.desk.line(TENANT, LINE).stable_id:
            await office.look()
        await office.acts.start_release(control.StartReleaseRequest(TENANT, LINE, bad, "ann", "", "request-2"))
        while (ended := office.desk.line(TENANT, LINE).of_model(bad)[0]).state is not State.ROLLED_BACK:
            assert time.monotonic() < deadline
            await office.look()
        letting_go = control.ReleaseQuarantineRequest(TENANT, ended.id, "ann", "a mistake", "request-3")
        await office.acts.release_quarantine(letting_go)


def told(folder: pathlib.Path, topic: topics.Topic, kind: type) -> list:
    log = SqliteLog(folder / "log.db")
    with contextlib.closing(log.reader({port.TopicPartition(topic.name, 0): 0})) as reader:
        found = [schemas.decode(record.value, record.headers, kind) for record in reader.poll(999, 0.0)]
    log.close()
    return found


STATES = [State.PENDING, State.VERIFYING, State.SAFETY, State.EVIDENCE, State.PROMOTING, State.PROMOTED]
RECORDS = [f"{point}:{nth}" for point in killing.under("rollout.desk.", "rollout.book.") for nth in range(1, 9)]
LOOKS = [
    "rollout.controller.process_released",
    *(f"{p}:{nth}" for p in killing.under("rollout.controller.process_wanted", "processes.") for nth in (1, 2, 9)),
]


@pytest.mark.parametrize("point", [*RECORDS, *LOOKS])
def test_a_release_goes_on_from_its_record_through_every_state_once(point: str, tmp_path: pathlib.Path) -> None:
    killing.run(publish_policies, tmp_path)
    killing.kill(point, control_line, tmp_path)
    killing.run(control_line, tmp_path)
    records = told(tmp_path, topics.ROLLOUTS, releases.Release)
    assert [record.revision for record in records] == list(range(1, len(records) + 1))
    assert [record.generation for record in records] == sorted(record.generation for record in records)
    newest = {record.id: record for record in records}
    assert len(newest) == 3
    adopted, *released = newest.values()
    assert [move.to_state for move in adopted.history] == [State.PENDING, State.VERIFYING, State.PROMOTED]
    assert [[move.to_state for move in release.history] for release in released] == [STATES, STATES]
    acts = [act.act for act in told(tmp_path, topics.AUDIT, audit.AuditRecord)]
    assert acts == ["line.adopt", "release.start", "release.start"]
    assert records[-1].arms[0].weight == 1.0 and records[-1].arms[0].policy_id == released[-1].candidate_id


TRAIL = [f"{point}:{nth}" for point in killing.under("trail.") for nth in (1, 2, 3)]
ENDED = [f"{point}:{nth}" for point in killing.under("rollout.desk.", "rollout.book.") for nth in (1, 4, 9, 10)]


@pytest.mark.parametrize("point", [*TRAIL, *ENDED])
def test_what_led_to_a_worse_policy_is_quarantined_once_and_each_act_is_on_the_trail_once(
    point: str, tmp_path: pathlib.Path
) -> None:
    killing.run(publish_policies, tmp_path)
    killing.kill(point, roll_back, tmp_path)
    killing.run(roll_back, tmp_path)
    records = [one for one in told(tmp_path, topics.ROLLOUTS, releases.Release) if one.quarantine is not None]
    first, last = records[0], records[-1]
    assert (first.state, first.history[-1].to_state) == (State.ROLLED_BACK, State.ROLLED_BACK)
    assert (first.quarantine.dataset_id, first.quarantine.reward_ids) == (
        policy_id(tmp_path, "data"),
        (policy_id(tmp_path, "reward"),),
    )
    assert first.quarantine.in_force
    assert last.quarantine == dataclasses.replace(first.quarantine, released_at=last.quarantine.released_at)
    assert last.quarantine.released_at is not None
    acts = told(tmp_path, topics.AUDIT, audit.AuditRecord)
    assert [(act.id, act.act) for act in acts] == [
        ("request-1", "line.adopt"),
        ("request-2", "release.start"),
        ("request-3", "quarantine.release"),
    ]


LISTEN = "import socket,sys,time; s = socket.create_server(('127.0.0.1', int(sys.argv[1][10:]))); time.sleep(600)"


def supervise(state: pathlib.Path) -> None:
    """A supervisor with one process, for a while."""
    keeper = supervisor.Supervisor(state, drain_s=2.0)
    keeper.ensure(processes.ProcessSpec("one", (sys.executable, "-uc", LISTEN, processes.ADDRESS)))
    with keeper.alone():
        keeper.run(threading.Event())


def started_with(address: str) -> list[int]:
    """Processes that were started with this address."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if address.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


@pytest.mark.parametrize("point", ["supervisor.start.before_noted", *(f"{p}:3" for p in killing.under("processes."))])
def test_a_supervisor_killed_while_it_starts_a_process_leaves_none_behind(point: str, tmp_path: pathlib.Path) -> None:
    killing.kill(point, supervise, tmp_path)
    second = supervisor.Supervisor(tmp_path, drain_s=2.0)
    stop = threading.Event()
    thread = threading.Thread(target=second.run, args=(stop,))
    thread.start()
    try:
        deadline = time.monotonic() + timing.PATIENCE_S
        (row,) = second.table.rows()
        while row.status is not processes.Status.RUNNING or started_with(row.address) != [row.pid]:
            assert time.monotonic() < deadline, (row, started_with(row.address))
            time.sleep(0.05)
            (row,) = second.table.rows()
        assert row.restarts == 0
    finally:
        stop.set()
        thread.join()
        for pid in started_with(row.address):
            os.kill(pid, signal.SIGKILL)
