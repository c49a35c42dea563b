"""Breaks ingestion, training and publishing in every way that their promises name, and looks what that cost.

    python -m tests.faults.harness.app                  every row, those of ingestion on both logs, and the mutants
    python -m tests.faults.harness.app --short          the same with 500 votes a row, not 5,000
    python -m tests.faults.harness.app --rows 1,4 --log kafka --seed 7

Prints a line a row, and one for each deliberately wrong design with the check that caught it. Exits with 0 only if
every row held and every mutant was caught. A whole run writes docs/benchmarks/faults.md.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import pathlib
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tests.benchmarks import pages
from tests.faults.harness import mutants, proxy, rows, subjects, tables, training, world

from trimtab.obs import logging

PAGE = pages.FOLDER / "faults.md"
LOGS = ("sqlite", "kafka")
_COLUMNS = (
    "row",
    "fault",
    "log",
    "kills",
    "sent",
    "acked",
    "lost",
    "duplicated",
    "errors in time",
    "p99 ms",
    "held",
    "seed",
)
_NUMBERS = sorted(rows.FAULTS.keys() | training.FAULTS.keys())
_MUTANT_COLUMNS = ("mutant", "log", "row", "acked", "caught by", "all it broke")


@dataclasses.dataclass(frozen=True, slots=True)
class Caught:
    """A mutant, and what became of the row that it was given."""

    name: str
    row: rows.Row

    @property
    def mutant(self) -> mutants.Mutant:
        return mutants.ALL[self.name]

    @property
    def count(self) -> int:
        """How much the check found that must catch it."""
        return len(getattr(self.row.verdict, self.mutant.caught_by))


class Bench:
    """Runs rows; brings up a Kafka when the first needs it, and keeps it for the others."""

    def __init__(self, size: world.Size, seed: int) -> None:
        self._size, self._seed = size, seed
        self._opened = contextlib.ExitStack()
        self._link: proxy.Proxy | None = None
        self._broker: subjects.Broker | None = None

    def __enter__(self) -> "Bench":
        self._link = proxy.Proxy(self._seed)
        self._opened.callback(self._link.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def row(self, number: int, log: str, mutant: str = "") -> rows.Row:
        """One row. A mutant is tried in small: what is wrong on purpose shows soon."""
        assert self._link is not None
        with world.made(
            log=log,
            size=min(self._size, world.SHORT, key=lambda size: size.votes) if mutant else self._size,
            seed=self._seed,
            name=f"row{number}",
            broker=self._kafka() if log == "kafka" else None,
            link=self._link,
            mutant=mutant,
            program=mutants.ALL[mutant].program if mutant else "",
        ) as made:
            return rows.play(number, made)

    def mutant(self, name: str) -> Caught:
        return Caught(name, self.row(mutants.ALL[name].row, mutants.ALL[name].log, name))

    def _kafka(self) -> subjects.Broker:
        assert self._link is not None
        if self._broker is None:
            folder = self._opened.enter_context(tempfile.TemporaryDirectory(prefix="trimtab-kafka-"))
            self._broker = self._opened.enter_context(subjects.broker(pathlib.Path(folder), self._link.port))
            self._link.target = self._broker.behind
        return self._broker


def main() -> None:
    asked = _arguments()
    logging.configure("faults", "error")  # what it reads of a log that is away is no news, and --json is a document
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1, 10_000)
    wanted = [int(one) for one in asked.rows.split(",")] if asked.rows else _NUMBERS
    logs = LOGS if asked.log == "both" else (asked.log,)
    size = world.SHORT if asked.short else world.WHOLE
    _say(f"seed {seed}, {size.votes} votes a row")
    begun = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nobody's kill leaves a JVM behind
    with Bench(size, seed) as bench:
        done = list(_rows(bench, wanted, logs))
        caught = list(_mutants(bench, wanted, logs))
    took = time.monotonic() - begun
    learned = training.run(wanted, size, seed, _say)
    _tell(done, caught, learned, as_json=asked.json)
    _say(f"{time.monotonic() - begun:.0f} s")
    if not asked.short and not asked.rows and asked.log == "both":
        pages.put(PAGE, page(done, caught, seed, took), "ingestion")
        pages.put(PAGE, training.page(learned), "training")
    well = all(row.held for row in done) and all(one.count for one in caught) and learned.well
    sys.exit(0 if well else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.harness.app",
        description="Breaks ingestion, training and publishing, and looks what that cost.",
    )
    parser.add_argument("--short", action="store_true", help="500 votes a row, not 5,000; writes no page")
    parser.add_argument("--seed", type=int, help="of the plan; printed at the start when left out")
    parser.add_argument("--rows", default="", help=f"of {', '.join(map(str, _NUMBERS))}; all when left out")
    parser.add_argument("--log", choices=(*LOGS, "both"), default="both", help="of rows that break ingestion")
    parser.add_argument("--json", action="store_true", help="for programs, on standard output")
    asked = parser.parse_args()
    if not set(filter(None, asked.rows.split(","))) <= set(map(str, _NUMBERS)):
        parser.error(f"--rows takes numbers of {', '.join(map(str, _NUMBERS))}, with commas between them")
    return asked


def _rows(bench: Bench, wanted: Sequence[int], logs: Sequence[str]) -> Iterator[rows.Row]:
    for number in filter(rows.FAULTS.__contains__, wanted):
        for log in rows.FAULTS[number][2]:
            if log in logs:
                row = bench.row(number, log)
                _say(f"row {number}, {log}: {'held' if row.held else 'DID NOT HOLD'}, {row.seconds:.0f} s")
                for sentence in (" | ".join(_cells(row)), *row.problems, *row.verdict.sentences, *row.notes):
                    _say(f"  {sentence}")
                if not row.held:
                    _say(f"  kept in {row.folder}")
                yield row


def _mutants(bench: Bench, wanted: Sequence[int], logs: Sequence[str]) -> Iterator[Caught]:
    for name, mutant in mutants.ALL.items():
        if mutant.log in logs and mutant.row in wanted:
            caught = bench.mutant(name)
            _say(f"mutant {name}: {'caught' if caught.count else 'NOT CAUGHT'}, {caught.row.seconds:.0f} s")
            for sentence in (*caught.row.problems, *caught.row.verdict.sentences):
                _say(f"  {sentence}")
            yield caught


def _cells(row: rows.Row) -> list[str]:
    of = row.verdict
    return [
        str(row.number),
        row.fault,
        row.log,
        str(row.kills),
        str(of.sent),
        str(of.acknowledged),
        str(len(of.lost)),
        str(len(of.duplicated)),
        f"{of.failures - len(of.late)} of {of.failures}",
        f"{of.p99_ms:.0f}",
        "yes" if row.held else "no",
        str(row.seed),
    ]


def _mutant_cells(caught: Caught) -> list[str]:
    of, verdict = caught.mutant, caught.row.verdict
    by = rows.checker.CHECKS[of.caught_by]
    broken = "; ".join(f"{words}: {len(found)}" for words, found in verdict.findings.items())
    return [
        of.words,
        of.log,
        str(of.row),
        str(verdict.acknowledged),
        f"{by}: {caught.count}" if caught.count else "NOT CAUGHT",
        broken,
    ]


def _tell(done: Sequence[rows.Row], caught: Sequence[Caught], learned: training.Done, *, as_json: bool) -> None:
    if as_json:
        ingestion = {"rows": [*map(_row_json, done)], "mutants": [*map(_mutant_json, caught)]}
        sys.stdout.write(json.dumps({**ingestion, "training": training.document(learned)}) + "\n")
        return
    for columns, lines in ((_COLUMNS, [*map(_cells, done)]), (_MUTANT_COLUMNS, [*map(_mutant_cells, caught)])):
        if lines:
            sys.stdout.write(tables.table(columns, lines) + "\n\n")
    sys.stdout.write(training.text(learned))


def _row_json(row: rows.Row) -> dict[str, Any]:
    return {**dataclasses.asdict(row), "held": row.held}


def _mutant_json(caught: Caught) -> dict[str, Any]:
    return {"mutant": caught.name, "caught": caught.count, "by": caught.mutant.caught_by, **_row_json(caught.row)}


def page(done: Sequence[rows.Row], caught: Sequence[Caught], seed: int, took: float) -> str:
    """What stands between the page's marks."""
    away = "; ".join(f"row {row.number}, {row.log}: {', '.join(row.notes)}" for row in done if row.notes)
    broken = [
        f"- row {row.number}, {row.log}: {words}" for row in done for words in (*row.problems, *row.verdict.sentences)
    ]
    return "\n\n".join(
        filter(
            None,
            [
                f"Made on {datetime.date.today():%Y-%m-%d} in {took / 60:.0f} minutes, seed {seed}: at least "
                f"{_least(done):,} votes a row.",
                tables.table(_COLUMNS, [*map(_cells, done)]),
                f"Seen besides: {away}.",
                "What did not hold:\n\n" + "\n".join(broken) if broken else "",
                "**Wrong designs under the same harness**, at least "
                f"{_least([one.row for one in caught]):,} votes each",
                tables.table(_MUTANT_COLUMNS, [*map(_mutant_cells, caught)]),
            ],
        )
    )


def _least(done: Sequence[rows.Row]) -> int:
    return min((row.verdict.sent for row in done), default=0)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
