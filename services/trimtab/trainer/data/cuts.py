"""Turns stored examples into a published data set.

`trainer.runs.triggers` cuts for its cycles, `trainer.runs.worker` for a reward run that was asked for without a data
set. What goes in and why is `trainer.data.cutting`; the folder's form is `trainer.data.datasets`.
"""

import pathlib
import tempfile
import types
from collections.abc import Collection, Mapping

from trimtab.core import errors, failpoints, lines
from trimtab.trainer.data import cutting, datasets, quarantines, store
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
        """
        in_force = self._quarantines.in_force(tenant, line)
        with self._database.transaction() as connection:
            in_force = store.fix_quarantines(connection, owner, in_force)
        held = self._quarantines.examples(tenant, line, in_force)
        with self._database.reading() as connection:
            stored = store.examples_until(connection, tenant, line, arrival)
        if not stored:
            raise errors.InvalidField("spec.dataset_id", "is empty and the line has no examples", "name a data set")
        weighting = self._lines[line].weights if line in self._lines else lines.WeightConfig()
        cut = cutting.cut(stored, self._per_rater, held, weighting)
        with tempfile.TemporaryDirectory() as scratch:
            folder = pathlib.Path(scratch)
            card = datasets.write(folder, cut.examples, cut.members, cut.watermarks, cut.weighting)
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
