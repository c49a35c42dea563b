"""Whether this version may work on a state folder: `trimtab up` asks before it starts anything. Changes nothing."""

from trimtab.bus.sqlite import file
from trimtab.cli.machine import platform
from trimtab.ledger.store import database
from trimtab.trainer.data import store


def require_known(layout: platform.Layout) -> None:
    """WrongState when a newer version has written one of the databases. The event log says so itself."""
    if layout.ledger.exists():
        database.require_known(file.version(layout.ledger), str(layout.ledger))
    if layout.trainer.exists():
        store.require_known(file.version(layout.trainer), layout.trainer)
