"""`trimtab status`: the whole platform on one screen."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Awaitable
from typing import TypeVar

from trimtab.cli import show
from trimtab.cli.machine import halting, platform
from trimtab.cli.models import inspecting
from trimtab.core import completions, control, errors, ledger, lines, releases, runs
from trimtab.rollout import processes

_QUICK_S = 5.0
_Told = TypeVar("_Told")


@dataclasses.dataclass(frozen=True, slots=True)
class Approval:
    """Thumbs and stars on a policy's answers. approval: their mean in [0, 1]; None without a vote."""

    policy_id: str
    role: str
    votes: int = 0
    approval: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One policy line as it is now. counts is None while the ledger does not answer; candidate: of a release under
    way."""

    name: str
    stable_id: str
    candidate_id: str
    release_state: str
    approvals: tuple[Approval, ...]
    counts: ledger.CountsResponse | None
    last_run: runs.Run | None


@dataclasses.dataclass(frozen=True, slots=True)
class Process:
    """memory_bytes: what is resident, without children; None of a process that does not run. halted: consumers of it
    that stand still."""

    name: str
    state: str
    pid: int
    restarts: int
    address: str
    memory_bytes: int | None
    last_exit: str
    halted: tuple[str, ...] = ()


async def status(state: pathlib.Path, as_json: bool) -> None:
    """NotFound when no platform runs in the folder. What does not answer is shown as a dash."""
    layout = platform.Layout(state)
    async with platform.doors(layout) as doors:
        standing = platform.halted(layout)
        listed = _processes(layout, tuple(standing))
        names = [one.name for one in lines.load_lines(layout.lines).values() if one.tenant == doors.facts.tenant]
        found = [await _line(doors, name) for name in names]
    screen = show.Screen(as_json)
    if as_json:
        screen.json(
            {
                "http_url": doors.facts.http_url,
                "processes": inspecting.plain(listed),
                "halted": inspecting.plain(list(standing.values())),
                "lines": [inspecting.plain(one) for one in found],
            }
        )
        return
    _show(screen, doors.facts, listed, found)
    if standing:
        screen.say("")
        halting.say(screen, standing)


def _processes(layout: platform.Layout, halted: tuple[str, ...]) -> tuple[Process, ...]:
    with contextlib.closing(processes.Table(layout.state)) as table:
        return tuple(
            Process(
                name=row.name,
                state=row.status.value,
                pid=row.pid,
                restarts=row.restarts,
                address=row.address,
                memory_bytes=_resident(row.pid),
                last_exit=row.last_exit,
                halted=tuple(one for one in halted if halting.process_of(one) == row.name),
            )
            for row in table.rows()
            if row.wanted or row.pid
        )


def _resident(pid: int) -> int | None:
    """Of /proc; None when there is no such process."""
    with contextlib.suppress(OSError):
        for entry in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if pid else ():
            name, _, value = entry.partition(":")
            if name == "VmRSS":
                return int(value.split()[0]) * 1024
    return None


async def _line(doors: platform.Doors, name: str) -> Line:
    tenant = doors.facts.tenant
    request = control.ListReleasesRequest(tenant, name)
    newest_first = await _told(doors.rollout.list_releases(request, timeout_s=_QUICK_S)) or ()
    counts = await _told(doors.ledger.counts(ledger.CountsRequest(tenant, name), timeout_s=_QUICK_S))
    worked = await _told(doors.trainer.list_runs(runs.ListRunsRequest(tenant, name), timeout_s=_QUICK_S))
    head = max(newest_first, key=lambda release: release.revision, default=None)
    arms = {arm.arm: arm.policy_id for arm in head.arms} if head else {}
    under_way = next((one for one in newest_first if one.state not in releases.FINAL_STATES), None)
    candidate = under_way.candidate_id if under_way else ""
    stable = arms.get(completions.Arm.STABLE, "")
    return Line(
        name=name,
        stable_id=stable,
        candidate_id=candidate,
        release_state=_release_state(under_way or (newest_first[0] if newest_first else None)),
        approvals=_approvals(counts, {stable: "stable", candidate: "candidate"}),
        counts=counts,
        last_run=worked[-1] if worked else None,
    )


async def _told(answer: Awaitable[_Told]) -> _Told | None:
    try:
        return await answer
    except (errors.ServiceUnavailable, errors.DeadlineExceeded, errors.Overloaded):
        return None


def _release_state(release: releases.Release | None) -> str:
    if release is None:
        return ""
    return release.state.value.replace("_", " ") + (", paused" if release.paused else "")


def _approvals(counts: ledger.CountsResponse | None, roles: dict[str, str]) -> tuple[Approval, ...]:
    """The policies that serve first, then those that did, by how many votes they had."""
    voted = {one.policy_id: one for one in counts.votes} if counts else {}
    serving = [policy for policy in roles if policy]
    before = sorted(voted.keys() - roles.keys(), key=lambda policy: -voted[policy].votes)
    return tuple(
        Approval(policy, roles.get(policy, ""), voted[policy].votes, voted[policy].vote_sum / voted[policy].votes)
        if policy in voted
        else Approval(policy, roles[policy])
        for policy in (*serving, *before)
    )


def _show(screen: show.Screen, facts: platform.Facts, listed: tuple[Process, ...], found: list[Line]) -> None:
    screen.say(f"{facts.http_url}/v1\n")
    screen.table(
        ("process", "state", "pid", "restarts", "address", "memory"),
        [
            (
                one.name,
                _state(one),
                str(one.pid or "-"),
                str(one.restarts),
                one.address,
                f"{one.memory_bytes / 1e6:.0f} MB" if one.memory_bytes is not None else "-",
            )
            for one in listed
        ],
        numbers=("pid", "restarts", "memory"),
    )
    screen.say("")
    screen.table(
        ("line", "stable", "candidate", "release", "feedback", "examples", "last run"),
        [
            (
                one.name,
                one.stable_id[: show.SHORT] or "none yet",
                one.candidate_id[: show.SHORT] or "-",
                one.release_state or "-",
                _feedback(one.counts),
                _examples(one.counts),
                f"{one.last_run.spec.kind.value} {one.last_run.state.value}" if one.last_run else "-",
            )
            for one in found
        ],
    )
    screen.say("")
    approvals = [
        (one.name, approval.policy_id[: show.SHORT], approval.role, str(approval.votes), _share(approval.approval))
        for one in found
        for approval in one.approvals
    ]
    screen.table(("line", "policy", "", "votes", "approval"), approvals, numbers=("votes", "approval"))


def _state(one: Process) -> str:
    if one.halted and one.state == processes.Status.RUNNING:
        return f"halted ({', '.join(one.halted)})"
    return one.state + (f" ({one.last_exit})" if one.state == processes.Status.CRASHED else "")


def _feedback(counts: ledger.CountsResponse | None) -> str:
    if counts is None:
        return "-"
    others = {"waiting": counts.waiting, "unjoinable": counts.unjoinable}
    others |= {"conflicts": counts.conflicts, "rejected": counts.rejected}
    told = [f"{number} {name}" for name, number in others.items() if number]
    return ", ".join([f"{counts.joined} joined", *told])


def _examples(counts: ledger.CountsResponse | None) -> str:
    if counts is None:
        return "-"
    used = sum(counts.dispositions.values())
    told = [f"{number} {name}" for name, number in counts.dispositions.items() if number]
    return ", ".join([*told, f"{max(0, counts.examples - used)} new"])


def _share(approval: float | None) -> str:
    return "-" if approval is None else f"{approval:.0%}"
