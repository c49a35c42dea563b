"""The trainer process: builds its parts and hands them down. `main` is the console command `trimtab trainer`.

A control plane: it never imports torch. Training runs in child processes (`trainer.launch`).

Examples go `consumer` -> `store`; `triggers` starts cycles of them, which `cuts` and `runs` work off: `jobs` holds the
child, `publishing` hands on what it made. People ask through `servicer` -> `requests`. Inside the child the order is
`job` -> `sft`, `reward_model` or `ppo` -> `gates`. docs/concepts/training.md follows one cycle.
"""

import contextlib
import fcntl
import functools
import pathlib
import threading
import uuid

from trimtab import registry
from trimtab.bus import connect, fold, runner, topics
from trimtab.core import errors, files, lines
from trimtab.rpc import process
from trimtab.trainer import (
    consumer,
    cuts,
    known,
    ledger_link,
    publishing,
    requests,
    runbook,
    servicer,
    settings,
    store,
    triggers,
)
from trimtab.trainer import runs as work


def main(config: settings.TrainerSettings) -> None:
    """Runs the trainer until SIGTERM."""
    process.launch(config, "trainer", build)


def build(config: settings.TrainerSettings) -> process.Process:
    """The process, ready to run."""
    configured = lines.load_lines(config.lines_file)
    requests.check_training(configured)
    trainer = process.Process("trainer", config)
    link = ledger_link.LedgerLink(
        config.ledger_address, trainer.secrets.internal_token, _own(config.state, trainer), config.lease_s
    )
    log = connect.open_log(config.log_url)
    trainer.on_close(log.close)
    artifacts = registry.Registry(config.registry_url, config.cache)
    database = store.Store(config.state / "trainer.db")
    trainer.on_close(database.close)
    topics_say, topics_known = known.Known(), threading.Event()
    book = runbook.Runbook(database)
    publisher = publishing.Publisher(
        log=log, store=artifacts, topics_say=topics_say, link=link, config_digest=config.digest()
    )
    cutter = cuts.Cutter(database, publisher, link, config.per_rater)
    worker = work.Worker(
        book=book,
        folder=config.state / "runs",
        artifacts=artifacts,
        publisher=publisher,
        cutter=cutter,
        configured=configured,
        python=config.python,
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
        database=database, book=book, publisher=publisher, artifacts=artifacts, log=log, configured=configured
    )
    trainer.add_service(servicer.TrainerServicer(domain).register, servicer.FULL_NAME)
    trainer.add_task("ledger", link.serve)
    models_read, rollouts_read = trainer.add_readiness("models"), trainer.add_readiness("rollouts")

    def on_models_read() -> None:
        topics_known.set()
        models_read()

    apply_model, apply_release = topics_say.apply_model, topics_say.apply_release
    trainer.add_thread("models", lambda stop: fold.follow(log, topics.MODELS, apply_model, stop, on_models_read))
    trainer.add_thread("rollouts", lambda stop: fold.follow(log, topics.ROLLOUTS, apply_release, stop, rollouts_read))
    examples = runner.Runner(log, [topics.EXAMPLES], consumer.Examples(database), consumer=consumer.CONSUMER)
    trainer.add_thread("examples", examples.run)
    trainer.add_thread("runs", functools.partial(worker.run, triggered=False))
    trainer.add_thread("triggered runs", functools.partial(worker.run, triggered=True))
    trainer.add_thread("cycles", cycles.run)
    return trainer


def _own(state: pathlib.Path, trainer: process.Process) -> str:
    """Locks the state folder for this process; the name it holds leases under, the same after every restart."""
    state.mkdir(parents=True, exist_ok=True)
    lock = (state / "trainer.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise errors.InvalidField(
            "state", f"{str(state)!r} belongs to a trainer that is running", "stop it or name another folder"
        ) from None
    trainer.on_close(lock.close)
    path = state / "holder"
    with contextlib.suppress(FileNotFoundError):
        return path.read_text().strip()
    holder = f"trainer-{uuid.uuid4().hex}"
    files.replace(path, holder)
    return holder
