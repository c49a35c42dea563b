"""What comes after intake: the ledger process joins votes with answers, and the trainer stores the examples."""

import contextlib
import dataclasses
import pathlib
import threading
import time
from collections.abc import Iterator, Sequence

from tests.benchmarks.ingest import load, subjects

from trimtab.bus import connect, port, publish, runner, topics
from trimtab.core import clock, completions, ids, text
from trimtab.rpc import process as processes
from trimtab.rpc import secrets
from trimtab.trainer.data import consumer, store

TOKENS = 40
_APPEND = 500
_LOOK_S = 0.02
# A ledger that has joined nothing more for so long has stopped.
_STILL_S = 300.0


@dataclasses.dataclass(frozen=True)
class Flow:
    """Examples a second, the ledger's greatest resident memory, and the sizes of both databases."""

    joined_per_s: float
    read_per_s: float
    ledger_mib: float
    ledger_bytes: int
    trainer_bytes: int


@dataclasses.dataclass(frozen=True)
class Joined:
    """What a ledger did with a log: examples a second, and its resident memory on the way.

    memory: (records read, MiB), once a second; what is read is told by what came of it: an example is two records.
    """

    per_s: float
    memory: Sequence[tuple[int, float]]


def fill(log_url: str, ring: ids.KeyRing, votes: int) -> None:
    """So many answers of 40 tokens, each of a session of its own, and a vote on each."""
    log = connect.open_log(log_url)
    waiting = []
    made = load.Votes(ring, sessions=votes)
    for number in range(0, votes, _APPEND):
        records = []
        for _ in range(min(_APPEND, votes - number)):
            event = made.event()
            token = ids.verify(event.kind.target.completion_id, subjects.TENANT, ring)
            context = text.Context(subjects.TENANT, "main", session_hash=token.session_hash)
            answer = _answer(event.kind.target.completion_id, context)
            judged = dataclasses.replace(event, context=context, verified=True)
            records.append(publish.new_record(topics.COMPLETIONS, token.session_hash, answer))
            records.append(publish.new_record(topics.FEEDBACK, token.session_hash, judged))
        waiting.append(log.append(records))
        if len(waiting) >= 8:
            waiting.pop(0).result()
    for one in waiting:
        one.result()
    log.close()


def _answer(completion_id: str, context: text.Context) -> completions.Completion:
    said = completions.Response(
        0,
        text.Text("A satellite dish is what you need, and somebody who can climb a roof without falling off it."),
        token_ids=tuple(range(1000, 1000 + TOKENS)),
        logprobs_raw=tuple(-0.25 - one / 64 for one in range(TOKENS)),
        logprobs_sampled=tuple(-0.25 - one / 64 for one in range(TOKENS)),
    )
    question = text.Message(text.Role.USER, text.Text("My television shows nothing but snow. What do I need?"))
    return completions.Completion(
        completion_id,
        context,
        clock.utc_now(),
        (question,),
        (said,),
        completions.Origin.SERVED,
        policy_id="p" * 64,
        exposure=completions.Exposure("release", "evidence", completions.Arm.STABLE, 0.5, randomised=True),
        latency_s=0.5,
    )


def measure(folder: pathlib.Path, log_url: str, votes: int) -> Flow:
    """Fills a log that has no examples yet, and times a new ledger and a new trainer's store on it."""
    folder.mkdir(exist_ok=True)
    secrets.create(folder / "secrets.toml", subjects.TENANT)
    connect.create_topics(log_url)
    fill(log_url, secrets.load(folder / "secrets.toml").signing, votes)
    with subjects.ledger(folder, log_url) as process:
        joined = watched(process, log_url, votes).per_s
        memory = subjects.resident_mib(process, peak=True)
    read = _read(folder, log_url, votes)
    return Flow(joined, read, memory, (folder / "ledger.db").stat().st_size, (folder / "trainer.db").stat().st_size)


def watched(process: int, log_url: str, votes: int) -> Joined:
    """A ledger that was just started, from the first example that is seen on the log to the last."""
    memory: list[tuple[int, float]] = []
    with contextlib.closing(connect.open_log(log_url)) as log:
        first, began = 0, 0.0
        before, moved = 0, time.monotonic()
        while (there := sum(log.end_offsets(topics.EXAMPLES.name).values())) < votes:
            now = time.monotonic()
            if there and not first:
                first, began = there, now
            if first and now - began >= len(memory):
                memory.append((2 * there, subjects.resident_mib(process)))
            before, moved = (there, now) if there > before else (before, moved)
            if now - moved > _STILL_S:
                raise RuntimeError(f"the ledger joined {there} of {votes} and nothing more in {_STILL_S:.0f} s")
            time.sleep(_LOOK_S)
        memory.append((2 * there, subjects.resident_mib(process)))
        return Joined((votes - first) / (time.monotonic() - began), memory)


def _read(folder: pathlib.Path, log_url: str, votes: int) -> float:
    processes.collect_rarely()  # as a trainer does
    database, stop = store.Store(folder / "trainer.db"), threading.Event()
    with _open(log_url) as log:
        received = consumer.Examples(database)
        reading = runner.Runner(log, [topics.EXAMPLES], received, consumer="bench", batch=consumer.BATCH)
        thread = threading.Thread(target=reading.run, args=(stop,))
        began = time.monotonic()
        thread.start()
        ends = {source: end for source, end in log.end_offsets(topics.EXAMPLES.name).items() if end}
        while consumer.Examples(database).positions() != ends:
            time.sleep(_LOOK_S)
        taken = time.monotonic() - began
        stop.set()
        thread.join()
    database.close()
    return votes / taken


@contextlib.contextmanager
def _open(log_url: str) -> Iterator[port.EventLog]:
    with contextlib.closing(connect.open_log(log_url)) as log:
        yield log
