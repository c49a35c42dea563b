"""The rows of faults that hit training and publishing: each a function of an installation and of what it saw.

All of them run over the embedded log. What a row looks at it counts: how many there were, and which of them were wrong.
"""

import contextlib
import dataclasses
import datetime
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Collection
from typing import Any

from tests.faults.harness import (
    absent_scores,
    broken_artifacts,
    checks,
    installation,
    killed_runs,
    subjects,
    tables,
    two_trainers,
    world,
    wrong_training,
)

from trimtab.core import errors

COLUMNS = ("row", "fault", "store", "kills", "what was looked at, and how much of it was wrong", "held", "seed")
MUTANT_COLUMNS = ("mutant", "row", "caught by", "all it broke")
_Act = Callable[[installation.Installation, checks.Seen], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """What became of one row. problems: what did not come about, in sentences; notes: what was seen besides."""

    number: int
    store: str
    fault: str
    kills: int
    checked: tuple[checks.Checked, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    seed: int
    seconds: float
    folder: str

    @property
    def held(self) -> bool:
        return not self.problems and not self.wrong

    @property
    def wrong(self) -> tuple[checks.Checked, ...]:
        return tuple(one for one in self.checked if one.wrong)

    @property
    def sentences(self) -> list[str]:
        return [*self.problems, *(one.sentence for one in self.wrong)]


@dataclasses.dataclass(frozen=True, slots=True)
class Caught:
    """A wrong design, and what became of the row that it was given."""

    name: str
    row: Row

    @property
    def count(self) -> int:
        by = wrong_training.ALL[self.name].caught_by
        return sum(len(one.wrong) for one in self.row.checked if one.name == by)


# By number: what is done in words, by whom, and over which stores of the ledger.
FAULTS: dict[int, tuple[str, _Act, tuple[str, ...]]] = {
    2: ("kill -9 of the trainer and its job", killed_runs.killed, ("sqlite",)),
    10: ("disk full for checkpoints", killed_runs.full_disk, ("sqlite",)),
    11: ("broken artifacts published", broken_artifacts.published, ("sqlite",)),
    12: ("a paused trainer wakes up after its lease", two_trainers.paused, ("sqlite", "postgres")),
    18: ("reward service down, slow, NaN", absent_scores.absent, ("sqlite",)),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """What became of the rows, and of the wrong designs that they must catch."""

    rows: tuple[Row, ...]
    caught: tuple[Caught, ...]

    @property
    def well(self) -> bool:
        return all(row.held for row in self.rows) and all(one.count for one in self.caught)


def run(wanted: Collection[int], size: world.Size, seed: int, say: Callable[[str], None]) -> Done:
    """Those of these rows that are wanted. say: hears of each as it comes."""
    rows, caught = list[Row](), list[Caught]()
    for number in sorted(FAULTS.keys() & set(wanted)):
        for store in FAULTS[number][2]:
            row = play(number, store, size=size, seed=seed)
            say(f"row {number}, {row.fault}, {store}: {'held' if row.held else 'DID NOT HOLD'}, {row.seconds:.0f} s")
            for sentence in (*row.sentences, *(one.cell for one in row.checked), *row.notes):
                say(f"  {sentence}")
            if not row.held:
                say(f"  kept in {row.folder}")
            rows.append(row)
    for name, mutant in wrong_training.ALL.items():
        if mutant.row in wanted:
            one = catch(name, size, seed)
            say(f"mutant {name}: {'caught' if one.count else 'NOT CAUGHT'}, {one.row.seconds:.0f} s")
            for sentence in one.row.sentences:
                say(f"  {sentence}")
            caught.append(one)
    return Done(tuple(rows), tuple(caught))


def catch(name: str, size: world.Size, seed: int) -> Caught:
    """A wrong design under its row, in small: what is wrong on purpose shows soon."""
    mutant = wrong_training.ALL[name]
    small = min(size, world.SHORT, key=lambda one: one.votes)
    return Caught(name, play(mutant.row, mutant.log, size=small, seed=seed, mutant=name))


def play(number: int, store: str, *, size: world.Size, seed: int, mutant: str = "") -> Row:
    """One row, from nothing to its line."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="trimtab-faults-"))
    fault, act, _ = FAULTS[number]
    seen, begun = checks.Seen(store=store), time.monotonic()
    made = installation.Installation(folder, size=size, seed=seed, name=f"row{number}", mutant=mutant)
    try:
        with contextlib.closing(made):
            act(made, seen)
    except (subjects.Failed, errors.TrimtabError, AssertionError) as problem:
        seen.problems.append(str(problem))
    row = Row(
        number=number,
        store=store,
        fault=fault,
        kills=sum(one.kills for one in made.subjects) + seen.kills,
        checked=tuple(seen.checked),
        problems=tuple(seen.problems),
        notes=tuple(seen.notes),
        seed=seed,
        seconds=time.monotonic() - begun,
        folder=str(folder),
    )
    if row.held or mutant:
        shutil.rmtree(folder)
    return row


def cells(row: Row) -> list[str]:
    looked = "; ".join(one.cell for one in row.checked)
    held = "yes" if row.held else "no"
    return [str(row.number), row.fault, row.store, str(row.kills), looked, held, str(row.seed)]


def mutant_cells(caught: Caught) -> list[str]:
    mutant = wrong_training.ALL[caught.name]
    by = next((one.words for one in caught.row.checked if one.name == mutant.caught_by), "")
    broken = "; ".join(one.cell for one in caught.row.wrong)
    return [mutant.words, str(mutant.row), f"{by}: {caught.count}" if caught.count else "NOT CAUGHT", broken]


def text(done: Done) -> str:
    """Both tables, as far as there is something in them."""
    parts = ((COLUMNS, [*map(cells, done.rows)]), (MUTANT_COLUMNS, [*map(mutant_cells, done.caught)]))
    return "".join(tables.table(columns, lines) + "\n\n" for columns, lines in parts if lines)


def page(done: Done) -> str:
    """What stands between the page's marks."""
    seconds = sum(row.seconds for row in (*done.rows, *(one.row for one in done.caught)))
    also = "\n".join(f"- row {row.number}, {row.store}: {'; '.join(row.notes)}" for row in done.rows if row.notes)
    broken = [f"- row {row.number}, {row.store}: {words}" for row in done.rows for words in row.sentences]
    return "\n\n".join(
        filter(
            None,
            [
                f"Made on {datetime.date.today():%Y-%m-%d} in {seconds / 60:.0f} minutes.",
                tables.table(COLUMNS, [*map(cells, done.rows)]),
                f"Seen besides:\n\n{also}",
                "What did not hold:\n\n" + "\n".join(broken) if broken else "",
                "**Wrong designs under the same harness**",
                tables.table(MUTANT_COLUMNS, [*map(mutant_cells, done.caught)]),
            ],
        )
    )


def document(done: Done) -> dict[str, Any]:
    """For programs."""
    return {
        "rows": [{**dataclasses.asdict(row), "held": row.held} for row in done.rows],
        "mutants": [{"mutant": one.name, "caught": one.count, **dataclasses.asdict(one.row)} for one in done.caught],
    }
