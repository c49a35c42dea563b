"""A rollout controller killed anywhere ends its release as one release; a supervisor, with one process per row."""

import asyncio
import contextlib
import os
import pathlib
import signal
import sys
import threading
import time

import pytest
from tests.faults import killing

from trimtab import registry
from trimtab.bus import port, topics
from trimtab.bus.sqlite import SqliteLog
from trimtab.cli import supervisor
from trimtab.core import audit, clock, completions, control, ledger, lines, models, releases
from trimtab.rollout import controller, desk, line, local, operations, processes, shelf, steps
from trimtab.wire import schemas

WALKED = [*killing.under("rollout.", "processes.", "supervisor.")]
TENANT, LINE = "acme", "support"
CONFIG = lines.LineConfig(LINE, TENANT, release=lines.ReleaseConfig(minimum_sessions=20, safety_completions=4))
State = releases.ReleaseState


class Ledger:
    """Grants the lease, under a new generation to each process, and has seen the candidate's users content."""

    def __init__(self, folder: pathlib.Path) -> None:
        lives = folder / "lives"
        lives.write_text(f"{lives.read_text() if lives.exists() else ''}.")
        self._generation = len(lives.read_text())

    async def acquire_lease(
        self, request: ledger.AcquireLeaseRequest, *, timeout_s: float = 0
    ) -> ledger.AcquireLeaseResponse:
        return ledger.AcquireLeaseResponse(True, self._generation, request.holder)

    async def release_lease(self, request: ledger.ReleaseLeaseRequest, *, timeout_s: float = 0) -> None:
        pass

    async def evidence(self, request: ledger.EvidenceRequest, *, timeout_s: float = 0) -> ledger.EvidenceResponse:
        arms = (line.STABLE, line.CANDIDATE)
        sessions = tuple(
            ledger.SessionOutcome(arms[number % 2], 0.5, clock.utc_now(), 1, True, float(number % 2))
            for number in range(200)
        )
        return ledger.EvidenceResponse(sessions, tuple(ledger.ArmTotals(arm, 99, 0, 0, 0, 0.0) for arm in arms))


def publish_policies(folder: pathlib.Path) -> None:
    artifacts = registry.Registry(f"file://{folder}/registry", folder / "cache")
    for name in ("old", "new", "newer"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(f'"{name}"')
        draft = registry.ManifestDraft(kind=models.ModelKind.POLICY, tenant=TENANT, line=LINE)
        (folder / f"{name}.id").write_text(artifacts.publish(folder / name, draft).id)


def control_line(folder: pathlib.Path) -> None:
    """A controller that adopts "old", releases "new" and then "newer", until "old" need not run any more.

    Its policies are well: what the supervisor and they themselves would say is said here.
    """
    steps.SETTLE_S = 0.0
    asyncio.run(_control(folder))


async def _control(folder: pathlib.Path) -> None:
    log, world = SqliteLog(folder / "log.db"), Ledger(folder)
    artifacts = registry.Registry(f"file://{folder}/registry", folder / "cache")
    policies = [(folder / f"{name}.id").read_text() for name in ("old", "new", "newer")]
    machine = local.LocalBackend(folder / "state", ("policy", local.POLICY, processes.ADDRESS), {})
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
    acts = operations.Operations(office, {LINE: CONFIG}, known.find)
    deadline = time.monotonic() + 60
    await office.lease.renew()
    await office.look()
    rows = machine._table.rows()
    while True:
        assert time.monotonic() < deadline
        known_releases = [office.line(TENANT, LINE).of_model(policy_id) for policy_id in policies]
        if len(rows) == 3 and not rows[0].wanted and known_releases[2][0].state is State.PROMOTED:
            break
        if not known_releases[0]:
            await acts.adopt(control.AdoptRequest(TENANT, LINE, policies[0], "ann", "first"))
        for policy_id, before, own in zip(policies[1:], known_releases, known_releases[1:], strict=False):
            if before and before[0].state is State.PROMOTED and not own:
                await acts.start_release(control.StartReleaseRequest(TENANT, LINE, policy_id, "ann"))
        for row in rows:
            machine._table.observe(row.name, processes.Status.RUNNING if row.wanted else processes.Status.STOPPED)
        await loop.look()
        rows = machine._table.rows()
    log.close()


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
    # an act that died between the trail and the record is asked for again, and stands on the trail twice
    assert set(acts) == {"line.adopt", "release.start"} and len(acts) <= 4
    assert records[-1].arms[0].weight == 1.0 and records[-1].arms[0].policy_id == released[-1].candidate_id


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
        deadline = time.monotonic() + 20
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
