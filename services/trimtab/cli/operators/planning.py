"""`trimtab rollout simulate`: how long a release would take with an owner's own traffic, and how often it would err."""

import concurrent.futures
import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator, Sequence

from trimtab.cli import show
from trimtab.cli.machine import platform
from trimtab.cli.models import inspecting
from trimtab.core import lines
from trimtab.rollout import simulation

# Releases handed to a process at a time.
_SHARE = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """runs: of each candidate: worse by `difference`, the same, better by it."""

    users: simulation.Users
    config: lines.ReleaseConfig
    days: float
    runs: int
    seed: int

    @property
    def candidates(self) -> list[simulation.Users]:
        size = abs(self.users.difference)
        return [dataclasses.replace(self.users, difference=one) for one in ((-size, 0.0, size) if size else (0.0,))]


def config_of(state: pathlib.Path, line: str) -> lines.ReleaseConfig:
    """The line's rule as its state folder has it; the defaults where there is none and no line was named."""
    layout = platform.Layout(state)
    if not layout.lines.is_file() and not line:
        return lines.ReleaseConfig()
    known = lines.load_lines(layout.lines)
    return known[layout.check_line(line or next(iter(known)))].release


def simulate(plan: Plan, as_json: bool) -> None:
    """Plays the releases on every core and tells what became of them."""
    screen = show.Screen(as_json)
    total = plan.runs * len(plan.candidates)
    found: list[list[simulation.Ended]] = []
    with screen.step(f"{total} releases") as step:
        for users in plan.candidates:
            found.append([])
            for played in _played(users, plan):
                found[-1] += played
                step.say(f"{sum(map(len, found))} of {total}")
    summaries = [simulation.summary(ended) for ended in found]
    if as_json:
        screen.json(_document(plan, summaries))
    else:
        _tell(screen, plan, summaries)


def _played(users: simulation.Users, plan: Plan) -> Iterator[list[simulation.Ended]]:
    starts = range(0, plan.runs, _SHARE)
    with concurrent.futures.ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        waiting = [pool.submit(_some, users, plan, start) for start in starts]
        try:
            for done in waiting:
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _some(users: simulation.Users, plan: Plan, start: int) -> list[simulation.Ended]:
    """Each release has a seed of its own, so how they are shared out changes nothing."""
    numbers = range(start, min(start + _SHARE, plan.runs))
    return [
        simulation.play(users, plan.config, f"{plan.seed}/{users.difference}/{number}", days=plan.days)
        for number in numbers
    ]


def _tell(screen: show.Screen, plan: Plan, summaries: Sequence[simulation.Summary]) -> None:
    config, users = plan.config, plan.users
    rule = f"{config.rule}, margin {config.margin:g}" if config.margin else config.rule
    screen.say(
        f"{users.sessions_per_day:,.0f} sessions a day, {config.evidence_weight:.0%} of them on the candidate, "
        f"approval {users.approval:.2f}; rule {rule}, alpha {config.alpha:g}, "
        f"votes count up to {_time(config.maturity_s)} old"
    )
    late = f"open after {plan.days:g} days"
    columns = ("the candidate is", "promoted", "rolled back", "not proven", late, "days to a verdict", "sessions")
    screen.table(
        columns,
        [
            (
                _name(candidate.difference),
                *(f"{share:.1%}" for share in (one.better, one.worse, one.not_proven, one.undecided)),
                _span(one.half_days, one.most_days, ".1f"),
                _span(one.half_sessions, one.most_sessions, ",.0f"),
            )
            for candidate, one in zip(plan.candidates, summaries, strict=True)
        ],
        numbers=columns[1:],
    )
    screen.say("Days and sessions: half of the releases with a verdict had it by then, and (nine in ten).")


def _name(difference: float) -> str:
    if not difference:
        return "the same"
    return f"{abs(difference) * 100:g} points {'better' if difference > 0 else 'worse'}"


def _span(half: float, most: float, form: str) -> str:
    return "" if math.isnan(half) else f"{half:{form}} ({most:{form}})"


def _time(seconds: float) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds:g} s"


def _document(plan: Plan, summaries: Sequence[simulation.Summary]) -> dict[str, object]:
    return {
        "users": inspecting.plain(plan.users),
        "release": inspecting.plain(plan.config),
        "days": plan.days,
        "seed": plan.seed,
        "candidates": [
            {"difference": candidate.difference, **_finite(dataclasses.asdict(one))}
            for candidate, one in zip(plan.candidates, summaries, strict=True)
        ],
    }


def _finite(figures: dict[str, float]) -> dict[str, float | None]:
    """JSON knows no NaN."""
    return {name: None if math.isnan(value) else value for name, value in figures.items()}
