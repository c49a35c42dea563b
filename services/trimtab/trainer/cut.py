"""Cuts one data set: `python -m trimtab.trainer.cut`, its order as JSON on the standard input.

A process of its own, started by `trainer.data.cuts`: a cut holds every example of a line in memory, some 3 KB each, and
keeps an interpreter busy for as long as it takes; the trainer shall neither grow nor stand still for it. It reads the
trainer's database, which the trainer goes on writing, and leaves the folder, or nothing where the line has no examples.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping

import pydantic

from trimtab.core import lines
from trimtab.trainer.data import cutting, datasets, store


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """database: the trainer's file. folder: of the data set. arrival: the newest example that is in it. per_rater,
    quarantined, weighting: as `cutting.cut` has them."""

    database: pathlib.Path
    folder: pathlib.Path
    tenant: str
    line: str
    arrival: int
    per_rater: int
    quarantined: Mapping[str, str]
    weighting: lines.WeightConfig


ORDER = pydantic.TypeAdapter(Order)


def run(order: Order) -> None:
    """Writes the folder with its card."""
    with store.read_only(order.database) as connection:
        stored = store.examples_until(connection, order.tenant, order.line, order.arrival)
    if stored:
        cut = cutting.cut(stored, order.per_rater, order.quarantined, order.weighting)
        datasets.write(order.folder, cut.examples, cut.members, cut.watermarks, cut.weighting)


if __name__ == "__main__":
    run(ORDER.validate_json(sys.stdin.read()))
