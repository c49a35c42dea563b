"""Turns stored examples into a published data set.

`trainer.runs.triggers` cuts for its cycles, `trainer.runs.worker` for a reward run that was asked for without a data
set. What goes in and why is `trainer.data.cutting`; the folder's form is `trainer.data.datasets`; the work is
done by a process of its own (`trainer.cut`).
"""

import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Collection, Mapping

from trimtab.core import errors, failpoints, lines
from trimtab.trainer import cut
from trimtab.trainer.data import datasets, quarantines, store
from trimtab.trainer.links import ledger_link, publishing


class Cutter:
    """per_rater: examples of one rater that a data set uses at most. configured: how each line weighs them."""

    def __init__(
        self,
        database: store.Store,
        publisher: publishing.Publisher,
        link: ledger_link.LedgerLink,
        held: quarantines.Quarantines,
        per_rater: int,
        *,
        configured: Mapping[str, lines.LineConfig] = types.MappingProxyType({}),
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._ledger = link
        self._quarantines = held
        self._per_rater = per_rater
        self._lines = configured

    def cut(self, tenant: str, line: str, arrival: int, owner: str) -> str:
        """The id of the data set of everything that had arrived by then, less what is in quarantine.

        The same however often it is asked for: for an owner (a run, a cycle) the quarantines of the first time stand.
        ServiceUnavailable where it did not come about, and may when it is asked for again.
        """
        in_force = self._quarantines.in_force(tenant, line)
        with self._database.transaction() as connection:
            in_force = store.fix_quarantines(connection, owner, in_force)
        held = self._quarantines.examples(tenant, line, in_force)
        weighting = self._lines[line].weights if line in self._lines else lines.WeightConfig()
        with tempfile.TemporaryDirectory() as scratch:
            folder = pathlib.Path(scratch)
            _cut_apart(cut.Order(self._database.path, folder, tenant, line, arrival, self._per_rater, held, weighting))
            if not (folder / datasets.CARD_FILE).exists():
                raise errors.InvalidField("spec.dataset_id", "is empty and the line has no examples", "name a data set")
            card = json.loads((folder / datasets.CARD_FILE).read_text())
            failpoints.reach("trainer.cut.written")
            dataset_id = self._publisher.publish_dataset(tenant, line, folder, card)
            failpoints.reach("trainer.cut.published")
            return dataset_id

    def left_out(self, tenant: str, line: str) -> Collection[str]:
        """The examples that a cut of now would leave out."""
        return self._quarantines.examples(tenant, line, self._quarantines.in_force(tenant, line))

    def standing(self, tenant: str, line: str) -> int:
        """How many examples of the line stand with the ledger now."""
        return self._ledger.standing_examples(tenant, line)

    def check_arrived(self, tenant: str, line: str, wanted: int) -> None:
        """NotYet while fewer examples of the line have arrived here."""
        with self._database.reading() as connection:
            arrived = store.count_standing(connection, tenant, line)
        if arrived < wanted:
            raise ledger_link.NotYet(f"{arrived} of {wanted} examples of line {line!r} have arrived.")


def _cut_apart(order: cut.Order) -> None:
    command = [sys.executable, "-m", "trimtab.trainer.cut"]
    done = subprocess.run(command, input=cut.ORDER.dump_json(order), stderr=subprocess.PIPE, check=False)
    if done.returncode < 0:
        raise errors.ServiceUnavailable(
            f"The process that cuts a data set of line {order.line!r} was killed by "
            f"{signal.Signals(-done.returncode).name}; look whether it needs more memory than there is."
        )
    if done.returncode:
        raise RuntimeError(f"trimtab.trainer.cut ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
