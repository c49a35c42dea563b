"""Votes joined a second, on SQLite and on a real PostgreSQL side by side: `make bench SUITE=ledger`.

Every round, each store in turn reads the same embedded log into an empty database: an answer of a release and a thumb
on it, sessions of five. The rate is from the first poll to the last commit, the database's own work included;
publishing examples is not. A file and a server of this machine, both syncing each commit.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import threading
import time

from tests.postgres import server
from tests.unit.ledger import making

from trimtab.bus import port, publish, runner, topics
from trimtab.bus.sqlite import log as sqlite_log
from trimtab.core import completions, ledger
from trimtab.ledger import consumer, counting, evidence
from trimtab.ledger.store import database

_OF_A_SESSION = 5


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench SUITE=ledger", description="Votes joined a second by each store.")
    parser.add_argument("--votes", type=int, default=10_000, help="How many are joined in each round.")
    parser.add_argument("--rounds", type=int, default=3, help="How often each store takes its turn.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server.running() as postgres:
        log = sqlite_log.SqliteLog(pathlib.Path(folder) / "log.db")
        _fill(log, asked.votes)
        rates: dict[tuple[int, str], list[float]] = {}
        for number in range(asked.rounds):
            for batch in (consumer.BATCH.max_records, 50):
                sqlite = f"sqlite:///{folder}/{number}-{batch}.db"
                for name, url in (("SQLite", sqlite), ("PostgreSQL", postgres.create())):
                    rates.setdefault((batch, name), []).append(asked.votes / _seconds(log, url, batch, asked.votes))
        log.close()
    for (batch, name), found in rates.items():
        each = ", ".join(f"{rate:,.0f}" for rate in found)
        sys.stdout.write(f"batches of {batch:4}  {name:10}  {statistics.median(found):8,.0f} joined/s  (of {each})\n")


def _fill(log: port.EventLog, votes: int) -> None:
    arms = list(completions.Arm)
    for number in range(votes):
        session = number // _OF_A_SESSION
        exposure = making.exposed(arm=arms[session % 2])
        answer = making.completion(f"s{session}", number, created=float(number), exposure=exposure)
        publish.publish(log, topics.COMPLETIONS, answer.context.session_hash, answer)
        last = publish.publish(log, topics.FEEDBACK, answer.context.session_hash, making.thumb(answer))
        if number % 500 == 0:
            last.result()
    last.result()


def _seconds(log: port.EventLog, url: str, batch: int, votes: int) -> float:
    """How long a ledger takes to read the log; AssertionError unless every vote is in its evidence."""
    store, stop = database.Database(url), threading.Event()
    whole, consumer.BATCH = consumer.BATCH, runner.Batch(batch, 0.05)
    begun = time.perf_counter()
    consumer.run(log, store, making.NoArtifacts(), on_emitted=lambda: None, on_caught_up=stop.set, stop=stop)
    taken = time.perf_counter() - begun
    consumer.BATCH = whole
    counts = counting.counts(store, ledger.CountsRequest(making.TENANT, making.LINE))
    shown = evidence.evidence(store, ledger.EvidenceRequest(making.TENANT, "rel", 60.0), making.at(0.0))
    store.close()
    assert counts.joined == votes == sum(session.votes for session in shown.sessions)
    return taken


if __name__ == "__main__":
    main()
