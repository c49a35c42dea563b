"""The ledger process: builds its parts and hands them down. `main` is the console command `trimtab ledger`.

Records go `consumer` -> `settling` -> `joining` and `assembling`, into `store`; examples leave by `outbox`. Questions
go `servicer` -> `tracing`, `evidence`, `counting` or `leases`. `restoring` makes a lost database again.
docs/concepts/feedback.md follows one vote.
"""

import threading

from trimtab import registry
from trimtab.bus import connect
from trimtab.ledger import consumer, outbox, servicer, settings
from trimtab.ledger.store import database
from trimtab.rpc import process


def build(config: settings.LedgerSettings) -> process.Process:
    """The process, ready to run."""
    made = process.Process("ledger", config)
    log = connect.open_log(config.log_url)
    made.on_close(log.close)
    store = database.Database(config.database)
    made.on_close(store.close)
    artifacts = registry.Registry(config.registry_url, config.cache)
    publisher = outbox.Publisher(log, store)
    caught_up = made.add_readiness("log")

    def consume(stop: threading.Event) -> None:
        consumer.run(log, store, artifacts, on_emitted=publisher.wake, on_caught_up=caught_up, stop=stop)

    made.add_service(servicer.LedgerServicer(store).register, servicer.FULL_NAME)
    made.add_thread("consumer", consume)
    made.add_thread("outbox", publisher.run)
    return made


def main(config: settings.LedgerSettings) -> None:
    """Runs the ledger until SIGTERM."""
    process.launch(config, "ledger", build)
