"""How fast feedback is taken in: `python -m tests.benchmarks.ingest`.

Votes acknowledged per second by the feedback service and through the gateway, over Kafka and over the embedded log,
beside a bare `grpc.aio` server with the same messages and bare kafka-python with the same settings: all in one run,
taking turns. Then the ledger that joins the votes, and the trainer's store that reads the examples. Writes
docs/benchmarks/ingest.md.
"""

import argparse
import contextlib
import datetime
import functools
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

from tests.benchmarks import pages
from tests.benchmarks.ingest import joining, load, subjects
from tests.broker import cluster

from trimtab.bus import topics

PAGE = pages.FOLDER / "ingest.md"
IN_FLIGHT = (1, 32, 256)
# Votes of a batch, and batches in flight.
BATCHES = ((32, 1), (256, 1), (256, 4))
_PREFIX = "bench-"
Measure = Callable[[], load.Figure]
Found = Mapping[str, Sequence[load.Figure]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench SUITE=ingest", description=__doc__)
    parser.add_argument("--turns", type=int, default=5, help="How often every rate is measured.")
    parser.add_argument("--seconds", type=float, default=4.0, help="Of one measurement.")
    parser.add_argument("--votes", type=int, default=50_000, help="Votes for the ledger to join, on each log.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trimtab-ingest-") as made, cluster.running() as broker:
        folder = pathlib.Path(made)
        found = _taken_in(folder, broker.address, asked.turns, asked.seconds)
        flows = {
            "Kafka": joining.measure(folder / "joins-kafka", f"kafka://{broker.address}/joins-", asked.votes),
            "embedded": joining.measure(folder / "joins", f"sqlite://{folder}/joins.db", asked.votes),
        }
        disk = {"Kafka": cluster.data_bytes(broker, "joins-"), "embedded": _bytes(folder, "joins.db*")}
    text = "\n".join([_head(asked), _one_by_one(found), _in_batches(found), _joined(flows, disk, asked.votes)])
    pages.put(PAGE, text)
    sys.stdout.write(f"{text}\n")


def _taken_in(folder: pathlib.Path, broker: str, turns: int, seconds: float) -> Found:
    with _everything(folder, broker, seconds) as measured:
        found: dict[str, list[load.Figure]] = {name: [] for name in measured}
        for turn in range(turns):
            for name, measure in measured.items():
                one = measure()
                found[name].append(one)
                sys.stderr.write(
                    f"{turn + 1}/{turns} {name}: {one.per_s:,.0f}/s, {one.p50_ms:.1f} ms, 99 % {one.p99_ms:.1f} ms\n"
                )
    return found


@contextlib.contextmanager
def _everything(folder: pathlib.Path, broker: str, seconds: float) -> Iterator[dict[str, Measure]]:
    """What is measured, by a name that ends with the votes in flight."""
    with contextlib.ExitStack() as running:
        over = {
            "Kafka": running.enter_context(subjects.platform(folder / "k", f"kafka://{broker}/{_PREFIX}")),
            "embedded": running.enter_context(subjects.platform(folder / "s", f"sqlite://{folder}/log.db")),
        }
        echo = running.enter_context(subjects.echo(folder))
        bare = load.Votes(over["Kafka"].known.signing)
        to_broker = functools.partial(load.bare_kafka, [broker], _PREFIX + topics.FEEDBACK.name, bare.event)
        measured: dict[str, Measure] = {}
        for in_flight in sorted({*IN_FLIGHT, *(size * calls for size, calls in BATCHES)}):
            measured[f"kafka-python {in_flight}"] = functools.partial(to_broker, in_flight, seconds)
        for in_flight in IN_FLIGHT:
            measured[f"echo {in_flight}"] = functools.partial(load.unary, echo, bare.request, in_flight, seconds)
            for log, one in over.items():
                made = load.Votes(one.known.signing)
                sends = {
                    "feedback": (one.feedback, made.internal),
                    "replicas": (one.replicas, made.internal),
                    "gateway": (one.gateway, made.request),
                }
                for door, how in sends.items():
                    measured[f"{door} {log} {in_flight}"] = functools.partial(load.unary, *how, in_flight, seconds)
        for size, calls in BATCHES:
            for log, one in over.items():
                made = load.Votes(one.known.signing)
                measured[f"batch {log} {size} x {calls}"] = functools.partial(
                    load.batches, one.gateway, made.request, size, calls, seconds
                )
        yield measured


def _head(asked: argparse.Namespace) -> str:
    today = datetime.datetime.now(datetime.UTC).date()
    return (
        f"Made on {today}: {os.cpu_count()} cores, {asked.turns} turns of {asked.seconds:g} s. Rates are medians; "
        "ratios are medians over the turns, with the least and the greatest.\n"
    )


def _one_by_one(found: Found) -> str:
    rows = []
    for log in ("Kafka", "embedded"):
        for in_flight in IN_FLIGHT:
            echo = found[f"echo {in_flight}"]
            cells = [log, f"{in_flight}", _rate(echo)]
            for door in ("feedback", "replicas", "gateway"):
                mine = found[f"{door} {log} {in_flight}"]
                cells += [_rate(mine), _ratio(mine, echo), _p99(mine)]
            rows.append(cells)
    columns = ["log", "in flight", "echo /s"]
    for door in ("service", "two replicas", "gateway"):
        columns += [f"{door} /s", "× echo", "99 %, ms"]
    return "**Vote by vote** (`Send`)\n\n" + _table(columns, rows)


def _in_batches(found: Found) -> str:
    rows = []
    for size, calls in BATCHES:
        bare = found[f"kafka-python {size * calls}"]
        mine, embedded = found[f"batch Kafka {size} x {calls}"], found[f"batch embedded {size} x {calls}"]
        cells = [f"{size} x {calls}", _rate(bare), _rate(mine), _ratio(mine, bare), _p99(mine)]
        rows.append([*cells, _rate(embedded), _p99(embedded)])
    columns = ("votes x calls", "kafka-python /s", "Kafka /s", "× kafka-python", "99 %, ms", "embedded /s", "99 %, ms")
    return "**In batches** (`SendBatch` through the gateway)\n\n" + _table(columns, rows)


def _joined(flows: Mapping[str, joining.Flow], disk: Mapping[str, int], votes: int) -> str:
    rows = [
        [
            log,
            f"{flow.joined_per_s:,.0f}",
            f"{flow.read_per_s:,.0f}",
            f"{flow.ledger_mib:.0f}",
            f"{1000 * disk[log] / votes / 1e6:.2f}",
            f"{1000 * flow.ledger_bytes / votes / 1e6:.2f}",
            f"{1000 * flow.trainer_bytes / votes / 1e6:.2f}",
        ]
        for log, flow in flows.items()
    ]
    columns = ("log", "joined /s", "read /s", "ledger's memory, MiB", "log, GB", "ledger, GB", "trainer, GB")
    title = f"**Joined and read**: {votes:,} answers of {joining.TOKENS} tokens with a vote each; GB per million\n\n"
    return title + _table(columns, rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _rate(figures: Sequence[load.Figure]) -> str:
    return f"{statistics.median(one.per_s for one in figures):,.0f}"


def _p99(figures: Sequence[load.Figure]) -> str:
    return f"{statistics.median(one.p99_ms for one in figures):.0f}"


def _ratio(mine: Sequence[load.Figure], theirs: Sequence[load.Figure]) -> str:
    ratios = [one.per_s / other.per_s for one, other in zip(mine, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _bytes(folder: pathlib.Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


if __name__ == "__main__":
    main()
