"""Row 2: a run whose trainer and job are killed, between its writes and at any moment; and row 10: its disk is full.

The run is an ordinary one: votes in the log, a ledger that makes examples of them, a trainer that cuts a data set of
all of them and trains two reward models. When it is over it is run again from what was published, undisturbed and by
designs that are ours, and compared byte by byte.
"""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import time

from tests.faults import reading
from tests.faults.harness import checks, disks, installation, job, load, subjects

from trimtab.bus import publish, topics
from trimtab.core import clock, examples, feedback, models, runs, text
from trimtab.trainer.data import datasets
from trimtab.trainer.runs import reproducing

_DIES_WITHIN_S = 300.0
_DISK_MIB = 8
TRAINER, JOB, BOTH = "trainer", "job", "both"
# In the order in which a run comes to them; a number is drawn for {}.
_CUT = (
    (TRAINER, "trainer.run.started"),
    (TRAINER, "trainer.cut.written"),
    (TRAINER, "registry.publish.blob_copied"),
    (TRAINER, "files.settle.before_rename"),
    (TRAINER, "registry.publish.before_manifest"),
    (TRAINER, "trainer.publish.before_announcement"),
    (TRAINER, "trainer.publish.announced"),
    (TRAINER, "trainer.cut.published"),
    (TRAINER, "trainer.run.prepared"),
)
_WORK = (
    (JOB, "trainer.checkpoint.before_document:{}"),
    (BOTH, ""),
    (JOB, "files.settle.before_fsync:{}"),
    (JOB, "trainer.progress.before_told:{}"),
    (JOB, "files.settle.before_rename:{}"),
    (BOTH, ""),
    (JOB, "trainer.checkpoint.before_old_is_dropped:{}"),
    (JOB, "files.settle.before_folder_fsync:{}"),
    (JOB, "trainer.job.before_result"),
)
_END = (
    (TRAINER, "trainer.run.before_publishing"),
    (TRAINER, "trainer.publish.leased"),
    (TRAINER, "registry.publish.blob_copied"),
    (TRAINER, "files.settle.before_rename"),
    (TRAINER, "files.settle.before_folder_fsync"),
    (TRAINER, "registry.publish.before_manifest"),
    (TRAINER, "trainer.publish.before_announcement"),
    (TRAINER, "trainer.publish.announced"),
    (TRAINER, "trainer.run.published"),
    (TRAINER, "trainer.run.ended"),
)
_PARTS = (_CUT, _WORK, _END)


@dataclasses.dataclass(slots=True)
class _Bench:
    """The run that is disturbed."""

    of: installation.Installation
    seen: checks.Seen
    ledger: subjects.Subject
    trainer: subjects.Subject
    steering: job.Steering
    votes: set[str]
    run_id: str = ""

    @property
    def folder(self) -> pathlib.Path:
        return self.of.run_folder(self.run_id)

    def saved(self) -> int:
        """How many steps are in the checkpoints that a job would go on from."""
        steps = 0
        for path in (self.folder / "checkpoints").glob("*.json"):
            with contextlib.suppress(OSError):
                steps += int(json.loads(path.read_text())["step"])
        return steps

    def resumed(self) -> int:
        log = self.folder / "job.log"
        return log.read_text(errors="replace").count("goes on from a checkpoint") if log.exists() else 0


def killed(of: installation.Installation, seen: checks.Seen) -> None:
    """2: at places between write, fsync, rename and publish, and at any moment."""
    bench = _prepared(of, seen)
    for victim, point in _plan(of):
        started = len(bench.steering.starts())
        if victim == JOB:
            bench.steering.die_at(point)
        bench.trainer.start(point if victim == TRAINER else "")
        if victim == TRAINER and not bench.trainer.await_death(_DIES_WITHIN_S):
            raise subjects.Failed(f"The trainer never came to {point}: see {bench.trainer.said}")
        if victim == JOB:
            _await_death_of_job(bench, point, started)
        if victim == BOTH:
            _kill_both(bench, started)
    bench.trainer.start()
    _compare(bench)
    seen.require(seen.kills > 0, "No job was killed.")
    seen.notes.append(
        f"{bench.trainer.kills} kills of the trainer, {seen.kills} of its job, "
        f"which went on from a checkpoint {bench.resumed()} times"
    )


def _plan(of: installation.Installation) -> list[tuple[str, str]]:
    """So many turns as the size says, from every part of a run; always one in the middle of the work."""
    wanted = max(of.size.kills, 2)
    chosen = {(1, 3)}
    for turn in range(1, wanted):
        part = (turn + 1) % len(_PARTS)
        left = [(part, place) for place in range(len(_PARTS[part])) if (part, place) not in chosen]
        chosen.add(of.rng.choice(left))
    turns = [_PARTS[part][place] for part, place in sorted(chosen)]
    return [(victim, point.format(of.rng.randint(4, 8))) for victim, point in turns]


def full_disk(of: installation.Installation, seen: checks.Seen) -> None:
    """10: where run folders lie there is no space left in the middle of a run, and then there is."""
    runs_folder = of.folder / "trainer" / "runs"
    runs_folder.parent.mkdir()
    with disks.small(runs_folder, _DISK_MIB):
        bench = _prepared(of, seen)
        bench.trainer.start()
        installation.until(lambda: bench.saved() >= 3, f"no checkpoint is taken: see {bench.folder}")
        disks.fill(runs_folder / "ballast")
        waits = of.await_run(bench.trainer, bench.run_id, lambda run: "No space is left" in run.problem)
        kept, before = bench.saved(), bench.resumed()
        seen.require(waits.state is runs.RunState.RUNNING, "The run ended for want of space.")
        seen.require(kept > 0, "No checkpoint was left when the disk was full.")
        (runs_folder / "ballast").unlink()
        _compare(bench)
        unused = [] if bench.resumed() > before else ["the last"]
        seen.check("resumed", "checkpoints from before it that were not used", 1, unused)
        seen.notes.append(f"a disk of {_DISK_MIB} MiB, full after step {kept}")


def _prepared(of: installation.Installation, seen: checks.Seen) -> _Bench:
    """Votes, some of them twice in the log and in the ledger's topic; a run that was asked for and has not begun."""
    of.make_models()
    parent = of.publish("policy", models.ModelKind.POLICY)
    votes = _vote(of)
    ledger = of.subject("ledger", database=f"sqlite:///{of.folder / 'ledger.db'}")
    ledger.start()
    ledger.await_serving()
    _await_examples(of, votes)
    steering = job.Steering(of.folder / "jobs")
    trainer = of.subject(
        "trainer",
        environment=steering.environment,
        state=of.folder / "trainer",
        ledger_address=ledger.address,
        python=steering.interpreter(),
    )
    bench = _Bench(of, seen, ledger, trainer, steering, votes)
    settings = {"batch": max(2, of.size.votes // 20), "lr": 1e-3, "epochs": 3}
    # without the ledger it is taken on and cannot begin
    ledger.pause()
    try:
        trainer.start()
        trainer.await_serving()
        bench.run_id = of.start_run(
            trainer,
            runs.RunKind.REWARD,
            "request-1",
            parent_id=parent,
            seed=of.seed,
            settings_json=json.dumps(settings),
        )
        trainer.kill()
    finally:
        ledger.resume()
    return bench


def _vote(of: installation.Installation) -> set[str]:
    """Answers and a thumb on each, some of them said twice; the ids of the votes."""
    records = []
    for number in range(of.size.votes):
        answer = load.answer(number, of.seed, of.secrets.signing, of.secrets.hash_key)
        session = answer.context.session_hash
        vote = feedback.FeedbackEvent(
            id=f"v{number}",
            occurred_at=clock.utc_now(),
            kind=feedback.Thumb(text.ResponseRef(answer.id), up=of.rng.random() < 0.5),
            context=answer.context,
            rater=feedback.Rater(id=f"{number:032x}"),
            verified=True,
        )
        records.append(publish.new_record(topics.COMPLETIONS, session, answer))
        records += [publish.new_record(topics.FEEDBACK, session, vote)] * (2 if number % 10 == 0 else 1)
    with of.opened() as log:
        log.append(records).result()
    return {f"v{number}" for number in range(of.size.votes)}


def _examples(of: installation.Installation) -> dict[str, str]:
    """The votes that have an example, and its id."""
    with of.opened() as log:
        made = reading.standing(reading.decoded(log, topics.EXAMPLES, examples.Example))
    return {one.feedback_id: one.id for one in made}


def _await_examples(of: installation.Installation, votes: set[str]) -> None:
    """Returns when the ledger has told all of them; then some are told once more, as after a crash of its outbox."""
    installation.until(lambda: _examples(of).keys() == votes, "not every vote has an example")
    with of.opened() as log:
        copies = [
            publish.new_record(topics.EXAMPLES, one.context.session_hash, one)
            for one in reading.decoded(log, topics.EXAMPLES, examples.Example)[::7]
        ]
        log.append(copies).result()


def _await_death_of_job(bench: _Bench, point: str, started: int) -> None:
    """The job dies there; a moment later the trainer, which has noticed or not, does too."""
    installation.until(
        lambda: any(at == point and not _lives(pid) for pid, at in bench.steering.starts()[started:]),
        f"no job has come to {point}: see {bench.folder}",
        _DIES_WITHIN_S,
    )
    bench.seen.kills += 1
    time.sleep(bench.of.rng.uniform(0.0, 1.0))
    bench.trainer.kill()


def _kill_both(bench: _Bench, started: int) -> None:
    """In the middle of the work, if there is any left. started: so many jobs were, before this trainer."""
    before = bench.saved()

    def works() -> bool:
        done = (bench.folder / "result.json").exists()
        return done or (len(bench.steering.starts()) > started and bench.saved() > before)

    installation.until(works, f"no job gets on: see {bench.folder}")
    time.sleep(bench.of.rng.uniform(0.0, 0.5))
    for pid, _ in bench.steering.starts()[started:]:
        if _lives(pid):
            os.kill(pid, signal.SIGKILL)
            bench.seen.kills += 1
    bench.trainer.kill()


def _lives(pid: int) -> bool:
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _compare(bench: _Bench) -> None:
    """The data set, the topic and the weights, when the run has succeeded."""
    of, seen = bench.of, bench.seen
    run = of.await_run(bench.trainer, bench.run_id)
    example_of = _examples(of)
    dataset = of.registry.fetch(run.spec.dataset_id)
    members = collections.Counter(one.example_id for one in datasets.read_members(dataset))
    seen.check("lost", "votes lost", len(bench.votes), [v for v in bench.votes if example_of[v] not in members])
    seen.check("duplicated", "in the data set twice", len(members), [name for name, n in members.items() if n > 1])
    told = collections.Counter(one.id for one in of.announced())
    expected = {run.spec.dataset_id, *run.model_ids}
    odd = [name for name in told.keys() | expected if told[name] != (name in expected)]
    seen.check("announced", "models not announced once", len(expected), odd)
    again = reproducing.reproduce(of.registry, reproducing.find(of.registry, run.id), of.folder / "again")
    unequal = [f"{one.path} by {one.difference}" for one in again.files if not one.equal]
    seen.check("unequal", "files that differ from those of an undisturbed run", len(again.files), unequal)
