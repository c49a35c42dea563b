"""Row 12: two trainers on one line. The one with the lease stands still beyond it; the other publishes; it wakes up.

Where it stands still is the worst there is: it holds the lease and has not come to the registry; or the registry has
its models and nobody was told. While it wakes up the harness itself holds the lease, so that what it does then it does
under the old one. Jobs end at once: they leave a reward model that was made before. A reward service, which serves the
newest model of the line, is asked all the while.
"""

import asyncio
import contextlib
import dataclasses
import pathlib
import threading
from collections.abc import Iterator

from tests.faults import quick_job
from tests.faults.harness import checks, installation, load, process, subjects
from tests.postgres import server

import trimtab_client
from trimtab.core import errors, ledger, models, runs, scoring, text
from trimtab.wire import calls

_PLACES = ("trainer.publish.leased", "trainer.publish.before_announcement")
_LEASE_S = 2.0
_LEASE = f"trainer/{load.TENANT}/{load.LINE}"
_HARNESS = "harness"


@dataclasses.dataclass(slots=True)
class _Bench:
    of: installation.Installation
    ledger: subjects.Subject
    trainers: list[subjects.Subject]
    reward: subjects.Subject
    parent: str
    dataset: str
    # What a reward service has in its list when everything stands still, and no announcement of its own lease.
    stale: set[str] = dataclasses.field(default_factory=set)
    runs: dict[str, int] = dataclasses.field(default_factory=dict)

    def ask_for_run(self, trainer: int) -> str:
        number = len(self.runs)
        run_id = self.of.start_run(
            self.trainers[trainer],
            runs.RunKind.REWARD,
            f"request-{number}",
            parent_id=self.parent,
            dataset_id=self.dataset,
            seed=number,
        )
        self.runs[run_id] = trainer
        return run_id


def paused(of: installation.Installation, seen: checks.Seen) -> None:
    """12: at each place, each of the two in turn."""
    with contextlib.ExitStack() as opened:
        bench = _prepared(of, opened.enter_context(_database(of, seen.store)))
        served = opened.enter_context(_asked_all_the_while(bench))
        installation.until(lambda: served, f"the reward service does not answer: see {bench.reward.said}")
        rounds = max(2, min(of.size.kills, 6))
        for number in range(rounds):
            _round(bench, first=number % 2, place=_PLACES[number % len(_PLACES)])
            if bench.stale:
                break
    _look(bench, seen, served)
    seen.notes.append(f"a trainer stood still beyond its lease {rounds} times")


def _round(bench: _Bench, first: int, place: str) -> None:
    of, second = bench.of, 1 - first
    _pause_file(of, first).write_text(place)
    paused_run = bench.ask_for_run(first)
    trainer = bench.trainers[first]
    installation.until(lambda: trainer.stands_still, f"{trainer.name} does not come to {place}: see {trainer.said}")
    of.await_run(bench.trainers[second], bench.ask_for_run(second))
    _hold_lease(bench)
    trainer.resume()
    of.await_run(trainer, paused_run, lambda run: bool(run.problem) or run.state is runs.RunState.SUCCEEDED)
    bench.stale |= _listed(bench) - _fresh(of)
    of.ask(bench.ledger, calls.LedgerCalls, lambda to: to.release_lease(ledger.ReleaseLeaseRequest(_LEASE, _HARNESS)))
    of.await_run(trainer, paused_run)


def _prepared(of: installation.Installation, database: str) -> _Bench:
    of.make_models()
    (of.folder / "reward").rename(of.folder / "weights")
    of.publish("weights", models.ModelKind.REWARD, announce=True)
    parent = of.publish("policy", models.ModelKind.POLICY)
    dataset = of.publish("dataset", models.ModelKind.DATASET)
    python = quick_job.interpreter(of.folder)
    keeper = of.subject("ledger", database=database)
    trainers = [
        of.subject(
            "trainer",
            f"trainer-{number}",
            {process.PAUSE: str(_pause_file(of, number))},
            # run folders lie beside each other, so that both find what their jobs leave
            state=of.folder / f"trainer-{number}",
            ledger_address=keeper.address,
            python=python,
            lease_s=_LEASE_S,
        )
        for number in range(2)
    ]
    for number in range(2):
        state = of.folder / f"trainer-{number}"
        state.mkdir()
        (state / "weights").symlink_to(of.folder / "weights")
    reward = of.subject("reward")
    for subject in (keeper, *trainers, reward):
        subject.start()
    for subject in (keeper, *trainers, reward):
        subject.await_serving()
    return _Bench(of, keeper, trainers, reward, parent, dataset)


@contextlib.contextmanager
def _database(of: installation.Installation, store: str) -> Iterator[str]:
    if store == "sqlite":
        yield f"sqlite:///{of.folder / 'ledger.db'}"
        return
    with server.running() as started:
        yield started.create()


def _pause_file(of: installation.Installation, trainer: int) -> pathlib.Path:
    return of.folder / f"trainer-{trainer}.pause"


def _hold_lease(bench: _Bench) -> None:
    """Nobody can take a new lease from now on."""
    wanted = ledger.AcquireLeaseRequest(_LEASE, _HARNESS, 10 * installation.WITHIN_S)
    installation.until(
        lambda: bench.of.ask(bench.ledger, calls.LedgerCalls, lambda to: to.acquire_lease(wanted)).held,
        "the lease of a trainer that published does not run out",
    )


def _listed(bench: _Bench) -> set[str]:
    """What the reward service knows of."""
    listed = bench.of.ask(bench.reward, calls.RewardCalls, lambda to: to.list_reward_models())
    return {one.model_id for one in listed.models}


def _fresh(of: installation.Installation) -> set[str]:
    """The models that were announced under a lease no older than any before it on the topic."""
    newest, fresh = 0, set()
    for model in of.announced():
        if model.generation >= newest:
            fresh.add(model.id)
        newest = max(newest, model.generation)
    return fresh


@contextlib.contextmanager
def _asked_all_the_while(bench: _Bench) -> Iterator[list[str]]:
    """The versions that answered, each time another than before."""
    over, served = threading.Event(), list[str]()
    item = scoring.ScoreItem((text.Message(text.Role.USER, text.Text("which one")),), text.Text("it is red"))
    wanted = scoring.ScoreRequest(f"{load.LINE}@latest", (item,))

    async def ask() -> None:
        async with trimtab_client.connect(bench.reward.address, bench.of.secrets.internal_token) as channel:
            to = calls.RewardCalls(channel)
            while not over.is_set():
                with contextlib.suppress(errors.UnknownModel, errors.DeadlineExceeded):
                    answer = await to.score(wanted, timeout_s=120.0)
                    if served[-1:] != [answer.model_id]:
                        served.append(answer.model_id)
                await asyncio.sleep(0.1)

    asking = threading.Thread(target=asyncio.run, args=(ask(),))
    asking.start()
    try:
        yield served
    finally:
        over.set()
        asking.join()


def _look(bench: _Bench, seen: checks.Seen, served: list[str]) -> None:
    told = bench.of.announced()
    fresh, newest, accepted, holders = _fresh(bench.of), 0, list[models.PublishedModel](), dict[int, set[int]]()
    for model in told:
        if model.generation >= newest:
            accepted.append(model)
            if model.generation:
                holders.setdefault(model.generation, set()).add(bench.runs[model.run_id])
        newest = max(newest, model.generation)
    order = [model.id for model in accepted]
    seen.check("stale", "counted though announced under an older lease", len(told), bench.stale)
    seen.check("twice", "accepted more than once", len(fresh), {name for name in order if order.count(name) > 1})
    both = [str(generation) for generation, who in holders.items() if len(who) > 1]
    seen.check("shared", "generations with two publishers", len(holders), both)
    places = [order.index(name) if name in order else -1 for name in served]
    back = [name for name, place, before in zip(served[1:], places[1:], places, strict=False) if place < before]
    seen.check("back", "times a server went back in version", len(served), back)
    seen.require(len(served) > 1, "The reward service never served a second version.")
    seen.notes.append(f"{len(told) - len(accepted)} announcements under an older lease stand on the topic")
