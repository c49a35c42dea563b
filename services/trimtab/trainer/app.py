"""The trainer process: builds its parts and hands them down. `main` is the console command `trimtab trainer`.

A control plane: it never imports torch. Training runs in child processes (`trainer.launch`).

Examples go `consumer` -> `store`; `triggers` starts cycles of them, which `cuts` and `runs` work off: `jobs` holds the
child, or `hosted` waits for one of another machine, and `publishing` hands on what it made. People ask through
`servicer` -> `requests`. Inside the child the order is `job` -> `building` -> `methods` or `reward` -> `judging`.
docs/concepts/training.md follows one cycle.
"""

import contextlib
import functools
import pathlib
import threading
import uuid
from collections.abc import Callable

from trimtab import registry
from trimtab.bus import fold, port, runner, topics
from trimtab.core import errors, files, lines
from trimtab.rpc import process
from trimtab.trainer import offers, servicer, settings
from trimtab.trainer.data import consumer, cuts, quarantines, store
from trimtab.trainer.links import known, ledger_link, publishing
from trimtab.trainer.runs import audits, hosted, jobs, requests, runbook, triggers
from trimtab.trainer.runs import worker as work


def main(config: settings.TrainerSettings) -> None:
    """Runs the trainer until SIGTERM."""
    process.collect_rarely()
    process.launch(config, "trainer", build)


def build(config: settings.TrainerSettings) -> process.Process:
    """The process, ready to run."""
    configured = lines.load_lines(config.lines_file)
    requests.check_training(configured, config.job_processes)
    trainer = process.Process("trainer", config)
    link = ledger_link.LedgerLink(
        config.ledger_address, trainer.secrets.internal_token, _own(config.state, trainer), config.lease_s
    )
    log = trainer.open_log()
    artifacts = registry.Registry(config.registry_url, config.cache)
    database = store.Store(config.state / "trainer.db")
    trainer.on_close(database.close)
    topics_say, topics_known = known.Known(), threading.Event()
    book = runbook.Runbook(database)
    publisher = publishing.Publisher(
        log=log, store=artifacts, topics_say=topics_say, link=link, config_digest=config.digest()
    )
    held = quarantines.Quarantines(topics_say, artifacts)
    trail = audits.Audits(database, log)
    cutter = cuts.Cutter(database, publisher, link, held, config.per_rater, configured=configured)
    worker = work.Worker(
        book=book,
        folder=config.state / "runs",
        artifacts=artifacts,
        publisher=publisher,
        cutter=cutter,
        held=held,
        topics_say=topics_say,
        configured=configured,
        start=_starts(config),
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
    domain = requests.Requests(
        database=database,
        book=book,
        publisher=publisher,
        artifacts=artifacts,
        audits=trail,
        held=held,
        configured=configured,
        processes=config.job_processes,
    )
    trainer.add_service(servicer.TrainerServicer(domain).register, servicer.FULL_NAME)
    trainer.add_task("ledger", link.serve)
    _follow_topics(trainer, log, topics_say, topics_known)
    received = consumer.Examples(database)
    examples = runner.Runner(log, [topics.EXAMPLES], received, consumer=consumer.CONSUMER, batch=consumer.BATCH)
    trainer.add_thread("examples", examples.run)
    trainer.add_thread("runs", functools.partial(worker.run, triggered=False))
    trainer.add_thread("triggered runs", functools.partial(worker.run, triggered=True))
    trainer.add_thread("cycles", cycles.run)
    trainer.add_thread("audit trail", trail.run)
    return trainer


def _starts(config: settings.TrainerSettings) -> Callable[[jobs.RunFolder], jobs.Job]:
    """What begins a job: here, or on whichever machine takes it up."""
    if config.jobs_elsewhere:
        return functools.partial(hosted.Hosted, processes=config.job_processes)

    def child(folder: jobs.RunFolder) -> jobs.Child:
        offers.withdraw(folder.path)  # of a trainer that had them run elsewhere
        return jobs.Child(folder, config.python, config.secrets_file, config.job_processes)

    return child


def _follow_topics(
    trainer: process.Process, log: port.EventLog, topics_say: known.Known, topics_known: threading.Event
) -> None:
    """Keeps `topics_say` up to date; `topics_known` is set once both topics were read to their ends."""
    unread = {topics.MODELS.name, topics.ROLLOUTS.name}

    def follow(topic: topics.Topic, apply: Callable[[port.Record], None]) -> None:
        ready = trainer.add_readiness(topic.name)

        def on_read() -> None:
            unread.discard(topic.name)
            if not unread:
                topics_known.set()
            ready()

        trainer.add_thread(topic.name, lambda stop: fold.follow(log, topic, apply, stop, on_read, process="trainer"))

    follow(topics.MODELS, topics_say.apply_model)
    follow(topics.ROLLOUTS, topics_say.apply_release)


def _own(state: pathlib.Path, trainer: process.Process) -> str:
    """Locks the state folder for this process; the name it holds leases under, the same after every restart."""
    state.mkdir(parents=True, exist_ok=True)
    lock = (state / "trainer.lock").open("w")
    if not files.lock_now(lock):
        lock.close()
        raise errors.InvalidField(
            "state", f"{str(state)!r} belongs to a trainer that is running", "stop it or name another folder"
        )
    trainer.on_close(lock.close)
    path = state / "holder"
    with contextlib.suppress(FileNotFoundError):
        return path.read_text().strip()
    holder = f"trainer-{uuid.uuid4().hex}"
    files.replace(path, holder)
    return holder
