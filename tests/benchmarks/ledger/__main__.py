"""What a ledger costs, on SQLite and a real PostgreSQL: `make bench SUITE=ledger`; ARGS="--votes 20000" is a short run.

Each store in turn reads a copy of the same embedded log into an empty database: answers of 40 tokens with a vote each.
A ledger's process joins them and publishes the examples; measured from outside are examples a second, its resident
memory on the way, and what lies on the disk in the end. Writes docs/benchmarks/ledger.md.
"""

import argparse
import dataclasses
import datetime
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence

from tests.benchmarks import pages
from tests.benchmarks.ingest import joining, subjects
from tests.postgres import server

from trimtab.rpc import secrets

PAGE = pages.FOLDER / "ledger.md"
# Of the records, the share after which caches are full and memory should stand still.
_WARM = 0.3


@dataclasses.dataclass(frozen=True)
class Figures:
    """Of one store. database, examples: bytes that the database and the log have grown by."""

    joined: joining.Joined
    database: int
    examples: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench SUITE=ledger", description=__doc__)
    parser.add_argument("--votes", type=int, default=500_000, help="With their answers that is twice as many records.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trimtab-ledger-") as made, server.running() as postgres:
        folder = pathlib.Path(made)
        secrets.create(folder / "secrets.toml", subjects.TENANT)
        full = folder / "full.db"
        joining.fill(f"sqlite://{full}", secrets.load(folder / "secrets.toml").signing, asked.votes)
        url, lite = postgres.create(), folder / "ledger.db"

        def in_postgres() -> int:
            [(size,)] = postgres.ask(url, "SELECT pg_database_size(current_database())")
            return int(size)

        empty = in_postgres()
        found = {
            "SQLite": _measured(folder, full, f"sqlite:///{lite}", asked.votes, lambda: _bytes(lite)),
            "PostgreSQL": _measured(folder, full, url, asked.votes, lambda: in_postgres() - empty),
        }
        text = _told(asked.votes, _bytes(full), found)
    pages.put(PAGE, text)
    sys.stdout.write(f"{text}\n")


def _measured(folder: pathlib.Path, full: pathlib.Path, database: str, votes: int, size: Callable[[], int]) -> Figures:
    log = folder / "log.db"
    shutil.copy(full, log)
    with subjects.ledger(folder, f"sqlite://{log}", database) as process:
        joined = joining.watched(process, f"sqlite://{log}", votes)
    figures = Figures(joined, size(), _bytes(log) - _bytes(full))
    log.unlink()
    return figures


def _told(votes: int, log: int, found: dict[str, Figures]) -> str:
    today = datetime.datetime.now(datetime.UTC).date()
    rows = []
    for name, one in found.items():
        warm = [(read, mib) for read, mib in one.joined.memory if read >= 2 * votes * _WARM]
        greatest = max(mib for _, mib in one.joined.memory)
        rows.append(
            f"| {name} | {one.joined.per_s:,.0f} | {warm[0][1]:.0f} | {greatest:.0f} | {_slope(warm):+.1f} | "
            f"{_gb(one.database, votes)} | {_gb(one.examples, votes)} |"
        )
    return "\n".join(
        (
            f"Made on {today}: {os.cpu_count()} cores, load {os.getloadavg()[2]:.0f} over the last quarter of an hour; "
            f"{2 * votes:,} records, half answers of {joining.TOKENS} tokens and half votes on them. Completions and "
            f"feedback take {_gb(log, votes)} GB of the log per million completions.\n",
            "| database | joined /s | memory after warm-up, MiB | greatest, MiB | slope, MiB per million records | "
            "database, GB | examples in the log, GB |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            *rows,
            "",
        )
    )


def _slope(memory: Sequence[tuple[int, float]]) -> float:
    """MiB per million records, of a line through them; 0 of a single one."""
    if len(memory) < 2:
        return 0.0
    read, mib = zip(*memory, strict=True)
    return statistics.linear_regression(read, mib).slope * 1e6


def _gb(size: int, votes: int) -> str:
    """Per million completions."""
    return f"{size / votes / 1000:.2f}"


def _bytes(database: pathlib.Path) -> int:
    """Of a SQLite file, and what stands beside it."""
    return sum(path.stat().st_size for path in database.parent.glob(f"{database.name}*"))


if __name__ == "__main__":
    main()
