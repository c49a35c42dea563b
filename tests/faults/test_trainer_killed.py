"""A trainer killed anywhere in a cycle ends it as one: one data set, one reward run, one policy, each told once."""

import asyncio
import contextlib
import functools
import pathlib
import threading
import time

import pytest
from tests import timing
from tests.faults import killing, quick_job
from tests.services.trainer import conftest as making
from tests.services.trainer.test_cycles import OneHolder, thumbs

from trimtab import registry
from trimtab.bus import fold, port, publish, runner, topics
from trimtab.bus.sqlite import SqliteLog
from trimtab.core import audit, completions, lines, models, releases, runs, text
from trimtab.trainer.data import consumer, cuts, datasets, quarantines, store
from trimtab.trainer.links import known, publishing
from trimtab.trainer.runs import audits, jobs, requests, runbook, triggers
from trimtab.trainer.runs import worker as work
from trimtab.wire import schemas

WALKED = [*killing.under("trainer.cut.", "trainer.cycle.", "trainer.publish.", "trainer.run.", "trainer.store.")]
EXAMPLES = 24
LINE = lines.LineConfig(making.LINE, making.TENANT, lines.TriggerConfig(examples=EXAMPLES, cycles=1))


def begin(folder: pathlib.Path) -> None:
    """A line with its first policy, and examples on the topic, every fifth of them twice."""
    (folder / "policy").mkdir()
    (folder / "policy" / "config.json").write_text("{}")
    draft = registry.ManifestDraft(kind=models.ModelKind.POLICY, tenant=making.TENANT, line=making.LINE)
    policy_id = _registry(folder).publish(folder / "policy", draft).id
    making.Installation(folder, making.Ledger(), "").adopt(policy_id)
    log = SqliteLog(folder / "log.db")
    for number, one in enumerate(thumbs(0, EXAMPLES)):
        records = [publish.new_record(topics.EXAMPLES, one.context.session_hash, one)] * (2 if number % 5 == 0 else 1)
        log.append(records).result()
    log.close()
    quick_job.interpreter(folder)


def _registry(folder: pathlib.Path) -> registry.Registry:
    return registry.Registry(f"file://{folder}/registry", folder / "cache")


def serve(folder: pathlib.Path) -> None:
    """The threads of a trainer, until its line's cycle has ended. Its jobs end at once (`quick_job`)."""
    log, database, stop = SqliteLog(folder / "log.db"), store.Store(folder / "trainer.db"), threading.Event()
    topics_say, topics_known, rollouts_known = known.Known(), threading.Event(), threading.Event()
    book, link = runbook.Runbook(database), OneHolder()
    publisher = publishing.Publisher(
        log=log, store=_registry(folder), topics_say=topics_say, link=link, config_digest=""
    )
    held = quarantines.Quarantines(topics_say, _registry(folder))
    cutter = cuts.Cutter(database, publisher, link, held, 200)
    configured = {LINE.name: LINE}
    worker = work.Worker(
        book=book,
        folder=folder / "runs",
        artifacts=_registry(folder),
        publisher=publisher,
        cutter=cutter,
        held=held,
        topics_say=topics_say,
        configured=configured,
        start=lambda run: jobs.Child(run, str(folder / "python"), secrets_file=None),
        topics_known=topics_known,
    )
    cycles = triggers.Triggers(
        database=database,
        book=book,
        publisher=publisher,
        topics_say=topics_say,
        configured=configured,
        cutter=cutter,
        topics_known=topics_known,
    )
    reading = runner.Runner(
        log, [topics.EXAMPLES], consumer.Examples(database), consumer="trainer", batch=runner.Batch(9, 0.05)
    )
    # daemons: the process ends when the cycle has, in the middle of whatever they do
    for target, arguments in (
        (fold.follow, (log, topics.MODELS, topics_say.apply_model, stop, topics_known.set)),
        (fold.follow, (log, topics.ROLLOUTS, topics_say.apply_release, stop, rollouts_known.set)),
        (reading.run, (stop,)),
        (functools.partial(worker.run, triggered=True), (stop,)),
    ):
        threading.Thread(target=target, args=arguments, daemon=True).start()
    assert topics_known.wait(timing.PATIENCE_S) and rollouts_known.wait(timing.PATIENCE_S)
    deadline = time.monotonic() + 60
    while (newest := cycles.newest(LINE)) is None or newest.state is not triggers.CycleState.ENDED:
        assert time.monotonic() < deadline
        cycles.step()
        if newest is not None and newest.state is triggers.CycleState.RELEASE:
            (policy_id,) = book.get(LINE.tenant, newest.policy_run_id).model_ids
            if topics_say.release_of(LINE.tenant, LINE.name, policy_id) is None:
                promote(log, policy_id)
        time.sleep(0.01)
    while book.next_open(triggered=True) is not None or any((folder / "runs").glob("*/outputs")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def promote(log: port.EventLog, policy_id: str) -> None:
    """The rollout controller's word on the cycle's policy; said again, it is the same."""
    stable = releases.ArmTarget(completions.Arm.STABLE, policy_id, weight=1.0)
    release = releases.Release(
        id="release-2",
        context=text.Context(making.TENANT, making.LINE),
        revision=2,
        candidate_id=policy_id,
        stable_id=policy_id,
        anchor_id=policy_id,
        state=releases.ReleaseState.PROMOTED,
        salt=b"salt",
        created_at=making.AT,
        arms=(stable,),
        history=(releases.Transition(releases.ReleaseState.PROMOTED, making.AT, "users said so", "controller"),),
    )
    publish.publish(log, topics.ROLLOUTS, b"release-2", release).result()


def announced(folder: pathlib.Path) -> list[models.PublishedModel]:
    log = SqliteLog(folder / "log.db")
    with contextlib.closing(log.reader({port.TopicPartition("models", 0): 0})) as reader:
        found = [schemas.decode(record.value, record.headers, models.PublishedModel) for record in reader.poll(99, 0.0)]
    log.close()
    return found


def ask_and_cancel(folder: pathlib.Path) -> None:
    """An operator who starts a run and cancels it, under the same request ids at every try."""
    log, database = SqliteLog(folder / "log.db"), store.Store(folder / "trainer.db")
    topics_say, book = known.Known(), runbook.Runbook(database)
    publisher = publishing.Publisher(
        log=log, store=_registry(folder), topics_say=topics_say, link=OneHolder(), config_digest=""
    )
    asked = requests.Requests(
        database=database,
        book=book,
        publisher=publisher,
        artifacts=_registry(folder),
        audits=audits.Audits(database, log),
        held=quarantines.Quarantines(topics_say, _registry(folder)),
        configured={LINE.name: LINE},
    )
    draft = registry.ManifestDraft(kind=models.ModelKind.BASE, tenant=making.TENANT, line=making.LINE)
    (folder / "base").mkdir(exist_ok=True)
    (folder / "base" / "config.json").write_text("{}")
    base = _registry(folder).publish(folder / "base", draft).id
    spec = runs.RunSpec(making.TENANT, making.LINE, runs.RunKind.REWARD, parent_id=base)
    run = asyncio.run(asked.start(runs.StartRunRequest(spec, "ann", "request-1", "curious")))
    asyncio.run(asked.cancel(runs.CancelRunRequest(making.TENANT, run.id, "ann", "enough", "request-2")))
    log.close()


ACTED = [f"{point}:{nth}" for point in killing.under("trail.", "trainer.store.") for nth in (1, 2)]


@pytest.mark.parametrize("point", ACTED)
def test_an_act_that_is_tried_again_after_a_kill_is_done_once_and_on_the_trail_once(
    point: str, tmp_path: pathlib.Path
) -> None:
    killing.kill(point, ask_and_cancel, tmp_path)
    killing.run(ask_and_cancel, tmp_path)
    database, log = store.Store(tmp_path / "trainer.db"), SqliteLog(tmp_path / "log.db")
    [run] = runbook.Runbook(database).find(making.TENANT)
    assert run.state is runs.RunState.CANCELLED
    with contextlib.closing(log.reader({port.TopicPartition("audit", 0): 0})) as reader:
        acts = [schemas.decode(record.value, record.headers, audit.AuditRecord) for record in reader.poll(99, 0.0)]
    database.close()
    log.close()
    assert [(act.id, act.act, act.target, act.reason) for act in acts] == [
        ("request-1", "run.start", run.id, "curious"),
        ("request-2", "run.cancel", run.id, "enough"),
    ]


ONCE = [point for point in WALKED if "store" not in point]
OFTEN = [f"{point}:{nth}" for point in killing.under("trainer.store.") for nth in (1, 3, 6, 11)]
AGAIN = [point for point in ONCE if not point.startswith(("trainer.cut.", "trainer.cycle."))]
LATER = [*(f"{point}:2" for point in AGAIN), "trainer.publish.announced:3"]


@pytest.mark.parametrize("point", [*ONCE, *LATER, *OFTEN])
def test_a_cycle_is_one_cycle_and_each_of_its_models_is_told_once(point: str, tmp_path: pathlib.Path) -> None:
    killing.run(begin, tmp_path)
    killing.kill(point, serve, tmp_path)
    killing.run(serve, tmp_path)
    database = store.Store(tmp_path / "trainer.db")
    book = runbook.Runbook(database)
    done = book.find(making.TENANT)
    with database.reading() as connection:
        assert store.count_standing(connection, making.TENANT, making.LINE) == EXAMPLES
        assert len(connection.execute(store.EXAMPLES.select()).all()) == EXAMPLES
        (cycle,) = connection.execute(store.CYCLES.select()).all()
    database.close()
    assert (cycle.state, cycle.outcome) == ("ended", "promoted: users said so")
    assert cycle.end_arrival == EXAMPLES
    assert [(run.spec.kind, run.state) for run in done] == [
        (runs.RunKind.REWARD, runs.RunState.SUCCEEDED),
        (runs.RunKind.PPO, runs.RunState.SUCCEEDED),
    ]
    told = announced(tmp_path)
    assert [model.kind.value for model in told] == ["dataset", "reward", "evaluation_reward", "policy"]
    assert told[0].id == cycle.dataset_id
    assert [model.id for model in told[1:]] == [model_id for run in done for model_id in run.model_ids]
    members = datasets.read_members(_registry(tmp_path).fetch(cycle.dataset_id))
    assert len({member.example_id for member in members}) == len(members) == EXAMPLES
    for model in told:
        _registry(tmp_path).fetch(model.id)
    for run in done:
        left = {path.name for path in (tmp_path / "runs" / run.id).iterdir()}
        assert not left & {"checkpoints", "outputs"}, point


@pytest.mark.parametrize(("deaths", "saves", "ends"), [(4, False, True), (5, False, False), (7, True, True)])
def test_a_job_that_is_killed_is_started_again_as_long_as_it_gets_on(
    deaths: int, saves: bool, ends: bool, tmp_path: pathlib.Path
) -> None:
    killing.run(begin, tmp_path)
    (tmp_path / "deaths").write_text(str(deaths))
    if saves:
        (tmp_path / "saves").touch()
    killing.run(serve, tmp_path)
    database = store.Store(tmp_path / "trainer.db")
    first, *others = runbook.Runbook(database).find(making.TENANT)
    database.close()
    assert (tmp_path / "deaths").read_text() == "0"
    if ends:
        assert [run.state for run in (first, *others)] == [runs.RunState.SUCCEEDED] * 2
    else:
        assert (first.state, others) == (runs.RunState.FAILED, [])
        assert "was killed by SIGKILL again and again" in first.problem
