"""`trimtab rollout show`: one release whole, and how its verdict came about as a picture.

Read from the log, so a platform need not run.
"""

import contextlib
import datetime
import pathlib
from collections.abc import Callable, Sequence

from trimtab.bus import port
from trimtab.cli import plotting, show
from trimtab.cli.machine import platform
from trimtab.cli.models import inspecting
from trimtab.cli.operators import auditing, releasing
from trimtab.core import errors, files, releases, sequential
from trimtab.rollout import evidence

# More are as many lines that nobody can tell apart.
_POINTS = 50
_Point = tuple[datetime.datetime, sequential.Interval]
_CURVES: tuple[Callable[[sequential.Interval], float], ...] = (
    lambda found: found.mean,
    lambda found: found.upper,
    lambda found: found.lower,
)
_UNITS = (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))


def show_release(state: pathlib.Path, beginning: str, picture: pathlib.Path | None, as_json: bool) -> None:
    """picture: an SVG file to write."""
    screen = show.Screen(as_json)
    with contextlib.closing(platform.Layout(state).open_log()) as log:
        release = auditing.chosen(log, beginning)[-1]
        if as_json:
            screen.json(inspecting.plain(release))
        else:
            _tell(screen, release)
        if picture is not None:
            with screen.step("drawing how the verdict came about"):
                files.replace(picture, drawn(log, release))
            screen.say(f"  {show.literal(str(picture))}")


def drawn(log: port.EventLog, release: releases.Release) -> str:
    """Difference of approval and both ends of its confidence sequence over time, as SVG. WrongState without votes."""
    [replayed] = auditing.replayed(log, [release])
    course = evidence.course(replayed.seen, replayed.terms)
    if not course:
        raise errors.WrongState(f"No mature session of release {release.id} has voted: there is nothing to draw.")
    begun = release.evidence_started_at or release.created_at
    last = max(1.0, (course[-1][0] - begun).total_seconds())
    unit, seconds = next((name, size) for name, size in _UNITS if last >= 2 * size or size == 1.0)
    # From where there is something to see: before, both ends leave the page.
    enough = [point for point in course if point[1].units >= min(20, len(course))]
    names = ("candidate minus stable", "upper end", "lower end")
    across = [((at - begun).total_seconds() / seconds, found) for at, found in _thinned(enough)]
    series = [
        plotting.Series(name, [(x, max(-1.0, min(1.0, value(found)))) for x, found in across])
        for name, value in zip(names, _CURVES, strict=True)
    ]
    title = f"Approval, candidate {release.candidate_id[: show.SHORT]} minus stable {release.stable_id[: show.SHORT]}"
    chart = plotting.line_chart(title, series, across=f"{unit} since the evidence stage began")
    return plotting.alone(chart, names) + "\n"


def _thinned(points: Sequence[_Point]) -> list[_Point]:
    if len(points) <= _POINTS:
        return list(points)
    return [points[(len(points) - 1) * number // (_POINTS - 1)] for number in range(_POINTS)]


def _tell(screen: show.Screen, release: releases.Release) -> None:
    against = f" against {release.stable_id[: show.SHORT]}" if release.stable_id else ", the line's first"
    paused = ", paused" if release.paused else ""
    screen.say(
        show.literal(
            f"release {release.id} on line {release.context.line}: "
            f"policy {release.candidate_id[: show.SHORT]}{against}, {release.state.value.replace('_', ' ')}{paused}"
        )
    )
    screen.say("")
    screen.table(("when (UTC)", "what", "who", "why"), releasing.events(release))
    found = release.evidence
    if found is None:
        return
    screen.say("")
    columns = ("arm", "sessions", "mature", "voted", "approval", "completions")
    screen.table(
        columns,
        [_arm(arm) for arm in found.arms],
        numbers=columns[1:],
    )
    if found.uncounted:
        screen.say(f"{found.uncounted}.")
    screen.say("")
    screen.say(show.literal(f"{found.verdict.value.replace('_', ' ')}: {found.reason}"))
    if found.guardrails:
        screen.say("")
        guarded = ("guardrail", "stable", "candidate", "limit", "beyond it", "at most", "sessions", "")
        screen.table(guarded, [_guardrail(one) for one in found.guardrails], numbers=guarded[1:7])
    if found.segments:
        screen.say("")
        parted = ("segment", "stable: sessions", "voted", "approval", "candidate: sessions", "voted", "approval", "")
        screen.table(parted, [_segment(one) for one in found.segments], numbers=parted[1:])
        screen.say("By segment: reported, not tested. Among many segments some differ by chance.")


def _segment(one: releases.SegmentEvidence) -> tuple[str, ...]:
    arms = (one.stable, one.candidate)
    cells = [
        cell for arm in arms for cell in (str(arm.sessions), str(arm.voted), f"{arm.approval:.3f}" if arm.voted else "")
    ]
    difference = f"{one.candidate.approval - one.stable.approval:+.3f}" if all(arm.voted for arm in arms) else ""
    return (one.label, *cells, difference)


def _guardrail(one: releases.Guardrail) -> tuple[str, ...]:
    return (
        one.name,
        f"{one.stable:.3g}",
        f"{one.candidate:.3g}",
        f"{one.limit:g}",
        f"{one.beyond:+.3f}",
        f"{one.upper:+.3f}",
        str(one.sessions),
        one.standing.value,
    )


def _arm(one: releases.ArmEvidence) -> tuple[str, ...]:
    counts = (str(count) for count in (one.sessions, one.mature, one.voted))
    return (one.arm.value, *counts, f"{one.approval:.3f}", str(one.completions))
