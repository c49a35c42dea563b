"""Kills the processes of a platform at random while it serves, learns and releases, and looks what that cost.

    make faults SHORT=1     one storm over a small world: 12 to 15 deaths in 160 to 443 s, with other work beside it
    make faults             three storms over the whole demo, at least thirty deaths each, the supervisor's among them

Prints a table for each and exits with 0 only if what was to happen happened, every vote that was acknowledged was
joined and used, nothing was doubled, and every run has the weights of the same run without a storm. Everything is kept
where something is wrong.
"""

import argparse
import asyncio
import concurrent.futures
import dataclasses
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence

from tests.faults.storm import books, host, killer, story, users, world

from trimtab.cli import show
from trimtab.cli.demo import acts, operator
from trimtab.cli.demo import app as demo
from trimtab.cli.demo import users as demo_users
from trimtab.cli.machine import artifacts, platform
from trimtab.core import runs
from trimtab.trainer.runs import reproducing

SHORT = story.Size(demonstrations=240, epochs=6, votes=200, ppo_iterations=14, maximum_sessions=240)
# How long a request of the short storm's users is tried.
_SHORT_PATIENCE_S = 300.0
# Of operators, and of the demo's users: so many times longer than where nothing dies.
_SHORT_PATIENCE, _PATIENCE = 5.0, 10.0
# What the demo's last run, on all votes, is called.
_LAST = "all votes"
_AT_ONCE = 2


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--short", action="store_true", help="one small storm")
    arguments.add_argument("--seed", type=int, action="append", help="of a storm; may be given several times")
    asked = arguments.parse_args()
    seeds = asked.seed or ([1] if asked.short else [1, 2, 3])
    held = [storm(seed, asked.short) for seed in seeds]
    sys.exit(0 if all(held) else 1)


def storm(seed: int, short: bool) -> bool:
    """One platform, one storm, one table. Whether everything held."""
    screen, begun = show.Screen(), time.monotonic()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="trimtab-storm-"))
    screen.say(f"[bold]A storm[/], seed {seed}, in {folder}")
    place, kills = host.Host(folder / "state"), 10 if short else 30
    small = world.lines_toml(SHORT.votes, SHORT.ppo_iterations, SHORT.maximum_sessions)
    place.layout.lines.write_text(small if short else demo.LINES)
    deadly = killer.Killer(
        place,
        seed=seed,
        kills=kills,
        jobs=1 if short else 2,
        pause_s=(2.0, 6.0) if short else (3.0, 12.0),
        supervisor=not short,
    )
    try:
        with screen.step("starting"):
            place.start()
        told = asyncio.run((_play_story if short else _play_demo)(place, deadly, screen, seed))
        with screen.step("stopping") as step:
            step.say(f"exit code {(code := place.stop())}")
        held = _look(screen, place, deadly, told) and code == 0 and deadly.deaths.total() >= kills
    finally:
        place.destroy()
    screen.say(f"{'[green]it held[/]' if held else '[red]it did not hold[/]'}  {time.monotonic() - begun:.0f} s\n")
    if held:
        shutil.rmtree(folder)
    return held


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """What people know when it is over. votes: ids of the acknowledged ones; well: says whether what was to happen did,
    once all processes are gone."""

    votes: Collection[str]
    sent_again: int
    done: Sequence[runs.Run]
    well: Callable[[], bool]


async def _play_story(place: host.Host, deadly: killer.Killer, screen: show.Screen, seed: int) -> Told:
    async with platform.doors(place.layout) as doors:
        crowd = users.Users(place.base_url, doors.api_key, seed, _SHORT_PATIENCE_S)
        operating = operator.Operator(doors, world.LINE, _SHORT_PATIENCE)
        told = story.Story(
            layout=place.layout,
            operating=operating,
            users=crowd,
            screen=screen,
            size=SHORT,
            storm_is_over=lambda: deadly.done,
        )
        try:
            # a request that nobody makes cannot fail
            deadly.start(lambda: bool(crowd.acknowledged.votes))
            await told.play(seed)
        finally:
            await asyncio.to_thread(deadly.end)
            await crowd.close()
        disturbed = crowd.acknowledged.sent_again > 0
        return Told(
            crowd.acknowledged.votes, crowd.acknowledged.sent_again, await operating.list_runs(), well=lambda: disturbed
        )


async def _play_demo(place: host.Host, deadly: killer.Killer, screen: show.Screen, seed: int) -> Told:
    """What `trimtab demo` plays, on a platform of which everything dies."""
    async with platform.doors(place.layout) as doors:
        crowd = demo_users.Users(
            place.base_url, doors.api_key, acts.LINE, seed=seed, patience_s=_PATIENCE * demo_users.PATIENCE_S
        )
        operating = operator.Operator(doors, acts.LINE, _PATIENCE)
        try:
            deadly.start(lambda: "policy" in place.victims())
            played = acts.Demo(place.layout, operating, crowd, screen, seed)
            outcome = await played.play()
            await asyncio.to_thread(deadly.end)
            history, balance, done = await operating.history(), await played.balance(), await operating.list_runs()
        finally:
            await asyncio.to_thread(deadly.end)
            await crowd.close()

    def well() -> bool:
        return demo.tell(screen, outcome, history, balance, demo.audited(place.layout, history, screen))

    return Told(crowd.books.taken, crowd.books.repeated, done, well)


def _look(screen: show.Screen, place: host.Host, deadly: killer.Killer, told: Told) -> bool:
    layout, crashed = place.layout, place.ended_by_themselves()
    screen.say("")
    well = told.well()
    screen.table(("process", "kills"), [(name, str(count)) for name, count in sorted(deadly.deaths.items())])
    last = next(run for run in told.done if run.spec.label == _LAST)
    labels = [f"{run.spec.kind} {run.spec.label}" for run in told.done]
    verdict = books.judge(books.gather(layout, told.votes, labels=labels, last_cut=last.spec.dataset_id))
    ended = all(run.state is runs.RunState.SUCCEEDED for run in told.done)
    with screen.step("every run again, without a storm"):
        again = _again(layout, told.done)
    rows = [
        ("kills", str(deadly.deaths.total())),
        ("processes that ended by themselves", str(len(crashed))),
        ("requests sent again", str(told.sent_again)),
        ("votes acknowledged", str(verdict.acknowledged)),
        ("votes joined", str(verdict.joined)),
        *((f"  {name}", str(count)) for name, count in sorted(verdict.dispositions.items(), reverse=True)),
        ("lost", str(len(verdict.lost))),
        ("doubled", str(len(verdict.doubled))),
        (
            "runs that succeeded",
            f"{sum(run.state is runs.RunState.SUCCEEDED for run in told.done)} of {len(told.done)}",
        ),
        ("resumed from a checkpoint", str(killer.resumed(layout.state / "trainer" / "runs"))),
        ("runs compared, equal", f"{sum(one.equal for one in again)} of {len(again)}"),
    ]
    screen.table(("", ""), rows, numbers=("",))
    for words in (*crashed[:5], *verdict.lost[:5], *verdict.doubled[:5]):
        screen.say(f"  {words}")
    for one in again:
        for file in one.files:
            if not file.equal:
                screen.say(f"  {one.run_id}: {file.path} is not the same ({file.difference})")
    return well and verdict.balance and ended and not crashed and all(one.equal for one in again)


def _again(layout: platform.Layout, done: Sequence[runs.Run]) -> list[reproducing.Reproduction]:
    """Each run by itself, two at once, from what is published."""
    store = artifacts.open_registry(layout)

    def one(run: runs.Run) -> reproducing.Reproduction:
        scratch = layout.state / "again" / run.id
        return reproducing.reproduce(store, reproducing.find(store, run.id), scratch)

    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(one, done))


if __name__ == "__main__":
    main()
