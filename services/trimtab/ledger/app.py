"""The ledger process: builds its parts and hands them down. `main` is the console command `trimtab ledger`.

Records go `consumer` -> `settling` -> `joining` and `assembling`, into `store`; examples leave by `outbox`. Questions
go `servicer` -> `tracing`, `evidence`, `counting` or `leases`. `restoring` makes a lost database again. Of several
ledgers on one PostgreSQL `leading` lets one write; `standing_by` is what the others do.
docs/concepts/feedback.md follows one vote.
"""

import functools
import threading

from trimtab import registry
from trimtab.bus import deadletter
from trimtab.ledger import consumer, leading, outbox, servicer, settings, standing_by, unjoinable
from trimtab.ledger.store import database
from trimtab.rpc import process


def build(config: settings.LedgerSettings) -> process.Process:
    """The process, ready to run."""
    made = process.Process("ledger", config)
    log = made.open_log()
    paused_s = leading.PAUSED_LEASES * config.lease_s
    store = database.Database(config.database, password=config.password(), paused_s=paused_s)
    made.on_close(store.close)
    lead = leading.Lead(store, config.lease_s)
    made.on_close(lead.give_up)
    artifacts = registry.Registry(config.registry_url, config.cache)
    publisher = outbox.Publisher(log, lead)
    ready = made.add_readiness("log")
    patience = unjoinable.Patience(config.unjoinable_after_s)
    door = servicer.LedgerServicer(store, patience)

    def caught_up() -> None:
        patience.knows(True)
        ready()

    standby = standing_by.Standby(log, lead, caught_up)

    def work(stop: threading.Event) -> None:
        door.goes_on()
        patience.knows(False)
        standby.begin_again()
        try:
            consumer.run(log, lead, artifacts, on_emitted=publisher.wake, on_caught_up=caught_up, stop=stop)
        except deadletter.TooManyDeadLetters as problem:
            door.stands_still(str(problem))
            patience.knows(False)
            ready()  # leases and traces are not to wait for an operator
            raise

    def consume(stop: threading.Event) -> None:
        lead.run(stop, lambda: work(stop), standby.look)

    made.add_service(door.register, servicer.FULL_NAME)
    made.add_thread("consumer", consume)
    made.add_thread("lead", lead.keep)
    made.add_thread("outbox", publisher.run)
    made.add_thread("unjoinable", functools.partial(unjoinable.watch, store, patience))
    return made


def main(config: settings.LedgerSettings) -> None:
    """Runs the ledger until SIGTERM."""
    process.collect_rarely()
    process.launch(config, "ledger", build)
