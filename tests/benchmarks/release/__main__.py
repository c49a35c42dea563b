"""How often a release's verdict is wrong and how many votes it needs: `python -m tests.benchmarks.release`.

Simulated users (`rollout.simulation`), judged by the code that judges real releases; beside it, on the same sessions,
what people use: a z-test that is looked at every hour, and pooled counts under a ramp. Writes the tables and pictures
of docs/benchmarks/release.md. Seeded: the same seed gives the same tables.
"""

import argparse
import concurrent.futures
import dataclasses
import datetime
import math
import os
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.benchmarks import pages
from tests.benchmarks.release import naive

from trimtab.cli import plotting
from trimtab.core import lines, releases
from trimtab.core import statistics as intervals
from trimtab.rollout import simulation

PAGE = pages.FOLDER / "release.md"
PICTURES = PAGE.with_suffix("")
ALPHA = 0.05
RULE = lines.ReleaseConfig(alpha=ALPHA, maximum_sessions=3000)
# Power is counted in votes: every session votes at once, and somebody looks after every few of them.
AT_ONCE = lines.ReleaseConfig(alpha=ALPHA, maturity_s=0.0)
DAYS = 21.0
USUAL = simulation.Users(sessions_per_day=2000.0, approval=0.6, response=0.5, response_unsatisfied=0.5)
VOTING = simulation.Users(sessions_per_day=2400.0, approval=0.6)
Users = simulation.Users
Verdict = releases.Verdict


def _with(**changes: Any) -> Users:
    return dataclasses.replace(USUAL, **changes)


_ALL_OF_IT: dict[str, Any] = {
    "daily_swing": 0.8,
    "drift": 0.02,
    "occasions": 5,
    "likeness": 0.3,
    "delay_h": (1.0, 24.0),
    "response": 0.3,
    "spite": 0.05,
}
ALIKE: dict[str, tuple[Users, float]] = {
    "nothing else": (USUAL, 0.5),
    "approval rises by 3 points a day": (_with(drift=0.03), 0.5),
    "traffic between 1/5 and 9/5 of its mean within a day": (_with(daily_swing=0.8, drift=0.02), 0.5),
    "5 votes a session, correlation .3": (_with(occasions=5, likeness=0.3), 0.5),
    "votes 1 to 24 h late": (_with(delay_h=(1.0, 24.0)), 0.5),
    "unsatisfied users vote twice as often": (_with(response=0.3, response_unsatisfied=0.6), 0.5),
    "5 % of sessions vote everything down": (_with(spite=0.05), 0.5),
    "candidate at a weight of .2, approval rises": (_with(drift=0.03), 0.2),
    "all of it": (_with(**_ALL_OF_IT), 0.5),
}
AIMED = (0.01, 0.03, 0.05)
# People who cast them; 0: everyone is somebody else, so no limit applies.
CAST_BY = (0, 10, 3)


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One run. peers: whether those who peek are asked too."""

    users: Users
    config: lines.ReleaseConfig
    seed: str
    look_every_h: float = 1.0
    peers: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    ended: simulation.Ended
    peeking: int = 0
    ramped: int = 0


def play(task: Task) -> Run:
    peers = naive.Peeking(task.seed)
    ended = simulation.play(
        task.users,
        task.config,
        task.seed,
        days=DAYS,
        look_every_h=task.look_every_h,
        saw=peers.saw if task.peers else lambda session: None,
    )
    return Run(ended, *(peers.verdicts(ended.days) if task.peers else (0, 0)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures how often a release's verdict is wrong.")
    parser.add_argument("--runs", type=int, default=2000, help="of every row (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--dry", action="store_true", help="print the tables, leave the page as it is")
    asked = parser.parse_args()
    with concurrent.futures.ProcessPoolExecutor(asked.processes) as pool:

        def rows(name: str, task: Callable[[str], Task]) -> list[Run]:
            tasks = [task(f"{asked.seed}/{name}/{number}") for number in range(asked.runs)]
            return list(_counted(pool.map(play, tasks, chunksize=20), name, asked.runs))

        wrong = [(name, rows(name, _alike(users, weight))) for name, (users, weight) in ALIKE.items()]
        aimed = [
            (share, raters, rows(_aimed_row(share, raters), _aiming(share, raters)))
            for raters in CAST_BY
            for share in AIMED
        ]
        power = [(gain, rows(f"{gain:+}", _voting(gain))) for gain in (0.1, -0.1)]
    text = "\n\n".join([_headline(asked.runs, asked.seed), _wrong(wrong), _power(power, asked.seed), _aimed(aimed)])
    print(text)  # noqa: T201  # what was asked for
    if not asked.dry:
        pages.put(PAGE, text)
        _draw(power, asked.seed)


def _alike(users: Users, weight: float, *, peers: bool = True) -> Callable[[str], Task]:
    config = dataclasses.replace(RULE, evidence_weight=weight)
    return lambda seed: Task(users, config, seed, peers=peers)


def _aimed_row(share: float, raters: int) -> str:
    return f"aimed {share} by {raters}" if raters else f"aimed {share}"


def _aiming(share: float, raters: int) -> Callable[[str], Task]:
    return _alike(_with(aimed=share, aimed_raters=raters), 0.5, peers=False)


def _voting(gain: float) -> Callable[[str], Task]:
    users = dataclasses.replace(VOTING, difference=gain)
    return lambda seed: Task(users, AT_ONCE, seed, look_every_h=0.05)


def _counted(runs: Iterator[Run], name: str, total: int) -> Iterator[Run]:
    for number, run in enumerate(runs, 1):
        if number % 100 == 0:
            print(f"{name}: {number} of {total}", file=sys.stderr, flush=True)  # noqa: T201
        yield run


def _headline(runs: int, seed: int) -> str:
    return (
        f"Made on {datetime.date.today():%Y-%m-%d}: {runs:,} runs a row, seed {seed}, alpha {ALPHA:g}. In brackets: "
        "95 % intervals of the shares (Wilson)."
    )


def _wrong(rows: Sequence[tuple[str, list[Run]]]) -> str:
    lines_ = [
        "**Two policies that do not differ**",
        "",
        "| users | promoted | rolled back | not proven | z-test, hourly: promoted, rolled back "
        "| pooled under a ramp: promoted, rolled back |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, runs in rows:
        of = [run.ended.verdict for run in runs]
        cells = [
            name,
            _share(of.count(Verdict.BETTER), len(runs)),
            _share(of.count(Verdict.WORSE), len(runs)),
            f"{of.count(Verdict.NOT_PROVEN) / len(runs):.1%}",
            *(
                ", ".join(f"{[getattr(run, peer) for run in runs].count(sign) / len(runs):.1%}" for sign in (1, -1))
                for peer in ("peeking", "ramped")
            ),
        ]
        lines_.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines_)


def _power(rows: Sequence[tuple[float, list[Run]]], seed: int) -> str:
    lines_ = [
        "**A policy that does differ**: votes on the candidate until the verdict, approval of the stable policy .6",
        "",
        "| candidate | right | wrong | mean | half of the runs | nine in ten | mean of an SPRT that knows both rates "
        "| ratio |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for gain, runs in rows:
        right = Verdict.BETTER if gain > 0 else Verdict.WORSE
        wrong = Verdict.WORSE if gain > 0 else Verdict.BETTER
        votes = sorted(run.ended.voted[1] for run in runs)
        best = statistics.fmean(_best(gain, len(runs), seed))
        mean = statistics.fmean(votes)
        verdicts = [run.ended.verdict for run in runs]
        cells = [
            f"{abs(gain) * 100:g} points {'better' if gain > 0 else 'worse'}",
            f"{verdicts.count(right) / len(runs):.1%}",
            f"{verdicts.count(wrong) / len(runs):.1%}",
            f"{mean:.0f}",
            f"{votes[len(votes) // 2]}",
            f"{votes[math.ceil(0.9 * len(votes)) - 1]}",
            f"{best:.0f}",
            f"{mean / best:.2f}",
        ]
        lines_.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines_)


def _aimed(rows: Sequence[tuple[float, int, list[Run]]]) -> str:
    lines_ = [
        "**Votes aimed at one arm**, policies that do not differ: the share of sessions that vote the candidate up and "
        f"the other down, and by how many people; of one person {RULE.rater_sessions:g} sessions count",
        "",
        "| aimed | cast by | promoted | rolled back | not proven |",
        "|---|---|---:|---:|---:|",
    ]
    for share, raters, runs in rows:
        of = [run.ended.verdict for run in runs]
        told = (of.count(verdict) / len(runs) for verdict in (Verdict.BETTER, Verdict.WORSE, Verdict.NOT_PROVEN))
        people = f"{raters} raters, capped" if raters else "one each"
        lines_.append(f"| {share:.0%} | {people} | {' | '.join(f'{one:.1%}' for one in told)} |")
    return "\n".join(lines_)


def _best(gain: float, runs: int, seed: int) -> list[int]:
    rng = random.Random(f"{seed}/best/{gain}")
    return [naive.sprt(VOTING.approval, VOTING.approval + gain, ALPHA, rng) for _ in range(runs)]


def _share(count: int, runs: int) -> str:
    low, high = intervals.wilson_interval(count, runs)
    return f"{count / runs:.1%} ({low:.1%} to {high:.1%})"


def _draw(power: Sequence[tuple[float, list[Run]]], seed: int) -> None:
    """Share of the runs that are decided after so many votes on the candidate."""
    PICTURES.mkdir(exist_ok=True)
    for gain, runs in power:
        ours = sorted(run.ended.voted[1] for run in runs)
        best = sorted(_best(gain, len(runs), seed))
        names = ("confidence sequence", "SPRT that knows both rates")
        series = [
            plotting.Series(name, [(float(of[(len(of) - 1) * step // 50]), step / 50) for step in range(51)])
            for name, of in zip(names, (ours, best), strict=True)
        ]
        title = f"Decided, candidate {abs(gain) * 100:g} points {'better' if gain > 0 else 'worse'}"
        chart = plotting.line_chart(title, series, unit="share of runs", across="votes on the candidate")
        name = f"{'gain' if gain > 0 else 'drop'}.svg"
        (PICTURES / name).write_text(plotting.alone(chart, names) + "\n")


if __name__ == "__main__":
    main()
